"""An agent's redirect as a process of its own inside of a machine: link, guard and rules, and a proxy that drains.

For what a door in the test's own process cannot show: what it hears of its own network, and what becomes of what it
leaves when it is killed.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from exclave.redirect.rules.policy import RedirectPolicy
from exclave_sandbox.stage.namespaces import Machine

TOP = Path(__file__).resolve().parents[2]

KEEP = """
import json, logging, sys
from pathlib import Path
import trio
from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.redirect import RedirectPolicy, open_guard, open_link, open_redirect
from exclave.redirect.rules.policy import Server

def tell(**what):
    print(json.dumps(what), flush=True)

class Told(logging.Handler):
    def emit(self, record):
        tell(log=record.getMessage())

logging.basicConfig(handlers=[Told()], level=logging.INFO)

async def heard():
    return (await trio.to_thread.run_sync(sys.stdin.readline)).strip()

async def main(runtime, policy):
    endings = EndingSwitch()
    async with open_link(endings), open_table(endings), open_guard(runtime, endings):
        async with open_redirect(Latest(policy), runtime, endings) as redirect:
            tell(up=True)
            if (word := await heard()) != "hand-over":
                endings.ask_nowait(Ending(word))
        tell(draining=True)
        await heard()
    tell(closed=True)

trio.run(main, Path(sys.argv[1]), eval(sys.argv[2]))
"""


@dataclass
class Keeping:
    """That process. `logs`: what it has logged."""

    running: "subprocess.Popen[bytes]"
    logs: list[str] = field(default_factory=list)
    _heard: bytes = b""

    def __post_init__(self) -> None:
        assert self.running.stdout is not None
        self.pid = self.running.pid  # nsenter goes on as what it runs
        self._stream = trio.lowlevel.FdStream(os.dup(self.running.stdout.fileno()))
        self.running.stdout.close()

    async def wait(self, what: str) -> Any:
        """Wait until it tells something: `up`, `draining`, `closed`, or a `log`."""
        with trio.fail_after(30):
            while True:
                told = json.loads(await self._line())
                self.logs += [told["log"]] if "log" in told else []
                if what in told:
                    return told[what]

    async def _line(self) -> bytes:
        while b"\n" not in self._heard:
            more = await self._stream.receive_some()
            assert more, f"it has ended; its log: {self.logs}"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    async def wait_log(self, beginning: str) -> str:
        """Wait for a line of its log."""
        while not (line := str(await self.wait("log"))).startswith(beginning):
            pass
        return line

    def say(self, word: str) -> None:
        """An ending; or, while it drains, that the proxy has ended."""
        assert self.running.stdin is not None
        self.running.stdin.write(f"{word}\n".encode())
        self.running.stdin.flush()

    async def end(self, word: str) -> None:
        """End it whole."""
        self.say(word)
        await self.wait("draining")
        self.say("the proxy has ended")
        await self.wait("closed")
        self.running.wait()

    def kill(self) -> None:
        """kill -9."""
        self.running.kill()
        self.running.wait()


async def keep(machine: Machine, runtime: Path, policy: RedirectPolicy) -> Keeping:
    """Start one, and wait until its rules stand."""
    environment = {**os.environ, "PYTHONPATH": str(TOP / "agent"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    inside = ["nsenter", f"--net=/proc/{machine.pid}/ns/net", "--"]
    keeping = Keeping(
        subprocess.Popen(
            [*inside, sys.executable, "-c", KEEP, str(runtime), repr(policy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
    )
    await keeping.wait("up")
    return keeping
