"""The part of an agent that redirects: link, table, keepalive process and rules. Arguments: runtime folder, policy.

Reads an ending from stdin, then a line once the proxy has ended. Prints one JSON object for each step and log line.
"""

import json
import logging
import sys
from pathlib import Path

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.link.link import open_link
from exclave.redirect.keepalive import open_keepalive
from exclave.redirect.private_table import open_private_table
from exclave.redirect.reconciler import open_redirect, open_table
from exclave.redirect.rules.policy import RedirectPolicy, Server  # noqa: F401  the policy's repr names both
from exclave.redirect.source_routing import open_source_routing


def report(**event: object) -> None:
    print(json.dumps(event), flush=True)


class Reporter(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        report(log=record.getMessage())


async def read_word() -> str:
    return (await trio.to_thread.run_sync(sys.stdin.readline)).strip()


async def main(runtime: Path, policy: RedirectPolicy) -> None:
    endings = EndingSwitch()
    private = open_private_table(policy.proxy_uid, endings)
    async with (
        private,
        open_link(endings),
        open_source_routing(Latest(policy.addresses), endings),
        open_table(endings),
        open_keepalive(runtime, endings),
    ):
        async with open_redirect(Latest[RedirectPolicy | None](policy), runtime, endings):
            report(up=True)
            if (word := await read_word()) != "hand-over":
                endings.ask_nowait(Ending(word))
        report(draining=True)
        await read_word()
    report(closed=True)


logging.basicConfig(handlers=[Reporter()], level=logging.INFO)
trio.run(main, Path(sys.argv[1]), eval(sys.argv[2]))
