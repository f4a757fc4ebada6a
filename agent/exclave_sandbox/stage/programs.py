"""Programs of the demo: started in machines, with their output in files, and ended with their block."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.expect import UnexpectedError

GOODBYE = 15.0  # seconds that a program has to end after SIGTERM


def module(name: str, *arguments: str) -> list[str]:
    """The argument list that runs a module of ours."""
    return [sys.executable, "-m", name, *arguments]


@dataclass
class StageProgram:
    """A program whose output is appended to `log`. `in_machine`: it runs below nsenter."""

    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    in_machine: bool = True
    started: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it, or start it again. Ctrl-C at the demo does not reach it: the demo ends it in order."""
        with self.log.open("ab") as output:
            self.started = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id on the host; below nsenter, if it is in a machine."""
        if not self.in_machine:
            return self.started.pid
        children = psutil.Process(self.started.pid).children()
        if not children:
            raise UnexpectedError(f"it has ended:\n{self.log_tail()}")
        return children[0].pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.started.poll() is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        if self.started.poll() is None:
            descriptor = os.pidfd_open(self.started.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        return self.started.wait()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and SIGKILL after GOODBYE seconds; its exit status."""
        self.send(number)
        with trio.move_on_after(GOODBYE):
            return await self.wait()
        self.send(signal.SIGKILL)
        return await self.wait()

    def kill(self) -> None:
        """End it by SIGKILL, and block until it has ended."""
        self.started.kill()
        self.started.wait()

    def log_tail(self, lines: int = 8) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start(
    arguments: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, in_machine: bool = True
) -> StageProgram:
    """Start a program; its output is appended to `log`."""
    program = StageProgram(list(arguments), log, environment or {}, in_machine)
    program.start()
    return program


@asynccontextmanager
async def open_program(
    arguments: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, in_machine: bool = True
) -> AsyncIterator[StageProgram]:
    """Run a program while open."""
    program = start(arguments, log, environment=environment, in_machine=in_machine)
    try:
        yield program
    finally:
        with shielded(2 * GOODBYE):
            await program.end()


class Traffic:
    """A running traffic generator."""

    def __init__(self, started: trio.Process) -> None:
        assert started.stdin is not None
        assert started.stdout is not None
        self._started = started
        self._commands = started.stdin
        self._answers = started.stdout
        self._received = b""

    async def request(self, line: str = "") -> bytes:
        """Send it a line; its answer, the figures so far as a JSON line. Raises UnexpectedError if it has ended."""
        await self._commands.send_all(f"{line}\n".encode())
        while b"\n" not in self._received:
            piece = await self._answers.receive_some()
            if not piece:
                raise UnexpectedError("the traffic generator has ended")
            self._received += piece
        answer, _, self._received = self._received.partition(b"\n")
        return answer

    async def end(self) -> bytes:
        """End it after its requests under way; its figures, one JSON line."""
        await self._commands.aclose()
        answer = b""
        async for piece in self._answers:
            answer += piece
        await self._started.wait()
        return answer.splitlines()[-1] if answer.strip() else b"{}"


@asynccontextmanager
async def open_traffic(arguments: Sequence[str]) -> AsyncIterator[Traffic]:
    """Run a traffic generator while open."""
    started = await trio.lowlevel.open_process(
        list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert started.stdin is not None
    try:
        yield Traffic(started)
    finally:
        with shielded(GOODBYE):
            started.kill()  # where the block failed: it has nothing to end in order
            await started.wait()
            await started.stdin.aclose()
