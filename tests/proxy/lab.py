"""A machine with the private link's addresses, a proxy that its users may run, and agents that come and go in it."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import trio

from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.stage.namespaces import Machine, open_network
from exclave_sandbox.stage.stage import share_stand_in

AGENT = Path(__file__).parents[1] / "support" / "agent.py"
USER = "nobody"
UID = GID = 65534

Told = dict[str, Any]
"""What an agent says of its proxy whenever something changes."""


@dataclass
class Agent:
    """An agent that runs, as far as it concerns the proxy. `log` is what it logged."""

    started: trio.Process
    log: Path
    told: list[Told] = field(default_factory=list)
    _text: str = ""

    async def until(self, accept: Callable[[Told], bool]) -> Told:
        """Wait until it tells something acceptable, which was not told before."""
        while True:
            self.told.append(await self._line())
            if accept(self.told[-1]):
                return self.told[-1]

    async def until_ready(self, *, adopted: bool = False) -> Told:
        """Wait until its proxy may have traffic."""
        told = await self.until(lambda told: bool(told.get("ready")))
        assert told["instances"][told["ready"]]["adopted"] == adopted
        return told

    async def say(self, word: str) -> None:
        """Give it a word."""
        assert self.started.stdin is not None
        await self.started.stdin.send_all(f"{word}\n".encode())

    async def end(self, word: str) -> None:
        """End it, by a word that says how."""
        await self.say(word)
        await self.until(lambda told: told.get("ended") == word)
        await self.started.wait()

    async def kill(self) -> None:
        """End it with SIGKILL, as nobody would wish."""
        os.kill(psutil.Process(self.started.pid).children()[0].pid, signal.SIGKILL)
        await self.started.wait()

    async def _line(self) -> Told:
        while "\n" not in self._text:
            assert self.started.stdout is not None
            piece = await self.started.stdout.receive_some()
            assert piece, f"the agent has ended:\n{self.log.read_text()}"
            self._text += piece.decode()
        line, _, self._text = self._text.partition("\n")
        told = json.loads(line)
        assert isinstance(told, dict)
        return told


@dataclass
class Lab:
    """One machine. `runtime` is its agents' runtime folder, `proxy` the stand-in proxy."""

    machine: Machine
    scratch: Path
    proxy: Path

    @property
    def runtime(self) -> Path:
        return self.scratch / "run"

    def write_binary(self, name: str, *lines: str) -> Path:
        """A shell script in place of a proxy."""
        return write_script(self.scratch / name, *lines)

    @asynccontextmanager
    async def agent(
        self, binary: Path | None = None, *, drain: float = 5.0, active: str = "", policy: str = ""
    ) -> AsyncIterator[Agent]:
        """An agent that finds rules pointing to `active`, under an inbound policy.

        When the block is left it is killed, if it has not ended.
        """
        told = [str(self.runtime), str(binary or self.proxy), USER, str(drain), active, policy]
        words = [sys.executable, str(AGENT), *told]
        log = self.scratch / "agent.log"
        with log.open("ab") as errors:
            started = await trio.lowlevel.open_process(
                self.machine.command(*words), stdin=PIPE, stdout=PIPE, stderr=errors, start_new_session=True
            )
        agent = Agent(started, log)
        try:
            yield agent
        finally:
            with shielded(60.0):
                if started.poll() is None:
                    await agent.kill()

    async def status(self, pid: int) -> dict[str, str]:
        """The kernel's word on a process of the machine."""
        text = (await self.machine.must("cat", f"/proc/{pid}/status")).decode()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}

    async def runs(self, pid: int) -> bool:
        """Whether a process of the machine runs, and is no zombie."""
        stat = await self.machine.run("cat", f"/proc/{pid}/stat")
        return stat.status == 0 and stat.output.rpartition(b")")[2].split()[0] != b"Z"

    async def get(self, path: str, address: str = "169.254.77.1") -> int:
        """Ask a proxy's admin server, from a program of the machine; the status."""
        fetch = (
            "import sys, http.client as c\nx = c.HTTPConnection(sys.argv[1], 4191, timeout=5)\n"
            "x.request('GET', sys.argv[2])\nprint(x.getresponse().status)"
        )
        return int(await self.machine.must(sys.executable, "-I", "-c", fetch, address, path))


@asynccontextmanager
async def open_lab() -> AsyncIterator[Lab]:
    """A machine of its own. Needs root."""
    async with open_network() as network:
        machine = await network.add("vm", "10.77.0.20/24")
        (network.scratch / "run").mkdir(mode=0o755)
        yield Lab(machine, network.scratch, await share_stand_in(network.scratch, machine))


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="exclave-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def write_script(path: Path, *lines: str, mode: int = 0o755) -> Path:
    """A shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(mode)
    return path
