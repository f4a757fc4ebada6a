"""An agent as far as swaps go, as a program: real link, names, Workload API, proxies, rules and swaps; a mesh it makes.

    python swapping.py JSON

JSON holds `runtime` (folder), `binary`, `user`, `drain` and `bound` (seconds), `ports` (of the group), and perhaps
`limit` (bytes of memory), `policy` (the group's inbound policy) and `die_at`: the name of a step at whose beginning it
kills itself with SIGKILL. It prints a JSON line whenever something changes, and reads one word a line: `rotate` (a new
certificate), `ports 8080,8081` (new settings), `swap`, `swap-forced`, and `leave`, `stop`, `hand-over`. It runs in a
network namespace of its own.
"""

import json
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import trio  # noqa: E402

from exclave.api.group import Port  # noqa: E402
from exclave.api.settings import Settings  # noqa: E402
from exclave.config import ProxyConfig, RedirectConfig  # noqa: E402
from exclave.confirm.confirm import open_confirm  # noqa: E402
from exclave.daemon.wanted_rules import open_steering  # noqa: E402
from exclave.data_path.observer import open_data_path  # noqa: E402
from exclave.dns.server import open_dns  # noqa: E402
from exclave.ending import Ending, EndingSwitch  # noqa: E402
from exclave.identity.svid import Svid  # noqa: E402
from exclave.kit.tasks.latest import Latest, open_any_change  # noqa: E402
from exclave.link.layout import dns_address  # noqa: E402
from exclave.link.link import open_link  # noqa: E402
from exclave.proxy.instance import Proxy, open_proxy  # noqa: E402
from exclave.proxy.process.binary import find_proxy_user  # noqa: E402
from exclave.redirect.kernel.nft import find_active  # noqa: E402
from exclave.redirect.reconciler import (  # noqa: E402
    Redirect,
    open_redirect,
    open_table,
)
from exclave.swap.swap import Swap, open_swap  # noqa: E402
from exclave.workload_api.server import open_workload_api  # noqa: E402
from support.agent import Keys, say  # noqa: E402
from support.mesh import ADDRESS, RECORD, SERVERS  # noqa: E402


async def show(proxy: Proxy, redirect: Redirect, swap: Swap) -> None:
    """One line a change."""
    of_proxy = (proxy.instances, proxy.chosen, proxy.ready, proxy.outdated)
    of_rules = (redirect.observed, redirect.wanted)
    async with open_any_change(*of_proxy, *of_rules, swap.phase, swap.problem, swap.clients) as change:
        async for _ in change.wakes():
            views = proxy.instances.value.items()
            say(
                instances={
                    name: {"state": view.state.word, "pid": view.pid, "refused": view.is_admin_denied}
                    for name, view in views
                },
                chosen=proxy.chosen.value,
                ready=proxy.ready.value,
                outdated=sorted(difference.value for difference in proxy.outdated.value),
                rules=redirect.observed.value.instance,
                in_place=redirect.in_place,
                trial=redirect.wanted.value.trial if redirect.wanted.value else None,
                ports=redirect.wanted.value.inbound_ports if redirect.wanted.value else None,
                step=swap.phase.value.name if swap.phase.value else None,
                clients=swap.clients.value,
                problem=swap.problem.value,
                results=dict(swap.results),
                starts=sum(proxy.starts.values()),
            )


async def show_rules(redirect: Redirect, proxy: Proxy) -> None:
    async for observed in redirect.observed.changes():
        proxy.observe_rules(observed.instance)


async def die(swap: Swap, step: str) -> None:
    await swap.phase.wait_for(lambda now: now is not None and now.name == step)
    os.kill(os.getpid(), signal.SIGKILL)


async def ask(swap: Swap, forced: bool) -> None:
    outcome = await swap.request(forced=forced)
    error = outcome.error
    say(
        outcome={"from": outcome.old, "to": outcome.new, "reason": outcome.reason.value, "took": outcome.took},
        error=None if error is None else {"word": error.fault.word, "message": error.message},
    )


async def obey(
    nursery: trio.Nursery, swap: Swap, keys: Keys, svid: Latest[Svid | None], settings: Latest[Settings | None]
) -> Ending:
    """Carry out words from standard input until one says how to end."""
    text = ""
    async with trio.lowlevel.FdStream(0) as words:
        async for piece in words:
            *lines, text = (text + piece.decode()).split("\n")
            for line in lines:
                word, _, argument = line.partition(" ")
                if word == "rotate":
                    svid.set(keys.sign())
                elif word == "ports":
                    ports = tuple(Port(f"p{number}", int(number)) for number in argument.split(","))
                    group = replace(keys.settings.group, ports=ports)
                    settings.set(replace(keys.settings, group=group))
                elif word in ("swap", "swap-forced"):
                    nursery.start_soon(ask, swap, word == "swap-forced")
                else:
                    return Ending(word)
    return Ending.HAND_OVER


async def run(told: dict[str, Any]) -> None:
    runtime, endings = Path(told["runtime"]), EndingSwitch()
    config = ProxyConfig(
        Path(told["binary"]), told["user"], "info", told["drain"], told["bound"], told.get("limit", 2**30)
    )
    keys = Keys(runtime)
    ports = tuple(Port(f"p{number}", number) for number in told["ports"])
    group = replace(keys.settings.group, ports=ports, inbound_policy=told.get("policy"))
    keys.settings = replace(keys.settings, group=group)
    svid, settings = Latest[Svid | None](keys.sign()), Latest[Settings | None](keys.settings)
    membership: Any = SimpleNamespace(settings=settings, record=RECORD, captured=Latest((ADDRESS,)))
    identity: Any = SimpleNamespace(svid=svid)
    uids = frozenset({(await find_proxy_user(config.user)).uid})
    async with (
        open_workload_api(runtime / "workload.sock", svid, lambda: (), uids) as api,
        open_link(endings),
        open_table(endings),
    ):
        async with open_dns(dns_address(), settings) as names:
            proxy_door = open_proxy(
                config, runtime, membership, identity, api.path, names.address, await find_active(), endings, time.time
            )
            async with proxy_door as proxy, open_data_path(membership, identity, proxy, time.time) as data_path:
                async with (
                    open_confirm(runtime, membership, None) as confirming,
                    open_steering(
                        RedirectConfig(), membership, proxy, data_path, confirming, SERVERS, await find_active()
                    ) as steering,
                ):
                    async with open_redirect(steering.policy, runtime, endings) as redirect:
                        async with open_swap(config, membership, proxy, steering.trial, redirect) as swap:
                            async with trio.open_nursery() as nursery:
                                if "die_at" in told:
                                    nursery.start_soon(die, swap, told["die_at"])
                                nursery.start_soon(show_rules, redirect, proxy)
                                nursery.start_soon(show, proxy, redirect, swap)
                                endings.ask_nowait(await obey(nursery, swap, keys, svid, settings))
                                nursery.cancel_scope.cancel()
    say(ended=endings.value.value)


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    trio.run(run, json.loads(sys.argv[1]), strict_exception_groups=True)


if __name__ == "__main__":
    main()
