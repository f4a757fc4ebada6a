"""The agent of `agent.py`, running in a machine: it prints a report after each change and reads words."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import trio

from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.stage.namespaces import Machine

PATIENCE = 30.0
"""Seconds to wait for a report."""

LISTEN_AT = Path(__file__).with_name("listen_at.py")
"""A program that listens at the address and port of its arguments."""

Report = dict[str, Any]


def is_alone(report: Report) -> bool:
    """Whether one instance runs, with the rules, and no swap is under way."""
    has_no_step = report.get("in_place") and report["step"] is None
    return bool(has_no_step and list(report["instances"]) == [report["rules"]] == [report["ready"]])


@dataclass
class Agent:
    """The program. `reports` are all that it printed, `log` is what it logged."""

    started: trio.Process
    log: Path
    reports: list[Report] = field(default_factory=list)
    _text: str = ""

    async def until(self, accept: Callable[[Report], bool]) -> Report:
        """Wait for an acceptable report that was not read before."""
        with trio.move_on_after(PATIENCE):
            while True:
                self.reports.append(await self._read_report())
                if accept(self.reports[-1]):
                    return self.reports[-1]
        last = "\n".join(map(json.dumps, self.reports[-3:]))
        raise AssertionError(f"not within {PATIENCE:.0f} s; the last reports:\n{last}\n{self.log.read_text()[-3000:]}")

    async def until_ready(self, *, adopted: bool = False) -> Report:
        """Wait until its proxy may have traffic."""
        report = await self.until(lambda report: bool(report.get("ready")))
        assert report["instances"][report["ready"]]["adopted"] == adopted
        return report

    async def until_whole(self) -> Report:
        """Wait until the rules are in the kernel and point to a ready instance."""
        return await self.until(
            lambda report: report.get("in_place", False) and report["ready"] == report["rules"] is not None
        )

    async def until_alone(self) -> Report:
        """Wait until one instance runs, with the rules, and no swap is under way."""
        return await self.until(is_alone)

    async def outcome(self) -> Report:
        """Wait for the outcome of a requested swap."""
        return await self.until(lambda report: "outcome" in report)

    async def send(self, word: str) -> None:
        assert self.started.stdin is not None
        await self.started.stdin.send_all(f"{word}\n".encode())

    async def end(self, ending: str) -> None:
        """End it by this ending."""
        await self.send(ending)
        await self.until(lambda report: report.get("ended") == ending)
        await self.started.wait()

    async def until_dead(self) -> None:
        """Wait until it has killed itself at its step."""
        with trio.move_on_after(PATIENCE):
            await self.started.wait()
            return
        raise AssertionError(f"it runs after {PATIENCE:.0f} s:\n{self.log.read_text()[-3000:]}")

    async def kill(self) -> None:
        """End it with SIGKILL."""
        for child in psutil.Process(self.started.pid).children():
            os.kill(child.pid, signal.SIGKILL)
        await self.started.wait()

    async def _read_report(self) -> Report:
        while "\n" not in self._text:
            assert self.started.stdout is not None
            piece = await self.started.stdout.receive_some()
            assert piece, f"the agent has ended:\n{self.log.read_text()[-3000:]}"
            self._text += piece.decode()
        line, _, self._text = self._text.partition("\n")
        report: Report = json.loads(line)
        return report


@asynccontextmanager
async def open_agent(machine: Machine, scratch: Path, **options: Any) -> AsyncIterator[Agent]:
    """Run an agent in a machine with folders in `scratch`; when the block is left it is killed, if it has not ended."""
    words = json.dumps({"runtime": str(scratch / "run"), "user": "nobody", **options})
    command = machine.command(sys.executable, str(Path(__file__).with_name("agent.py")), words)
    log = scratch / "agent.log"
    with log.open("ab") as errors:
        started = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=errors, start_new_session=True
        )
    agent = Agent(started, log)
    try:
        yield agent
    finally:
        with shielded(60.0):
            if started.poll() is None:
                await agent.kill()


async def is_running(machine: Machine, pid: int) -> bool:
    """Whether a process of the machine runs, and is no zombie."""
    stat = await machine.run("cat", f"/proc/{pid}/stat")
    return stat.status == 0 and stat.output.rpartition(b")")[2].split()[0] != b"Z"
