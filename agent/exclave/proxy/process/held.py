"""A process of an instance, as the agent holds it: its own child, or one that an earlier agent started.

A unit's process has the same methods (see `units`).
"""

import signal
from pathlib import Path
from typing import Protocol

import trio

from exclave.kit.host.gated import HeldProcess
from exclave.milestones import Withdrawing, log_milestone
from exclave.proxy.process.binary import unusable
from exclave.proxy.process.logfile import last_line


class InstanceProcess(Protocol):
    """A held process. Only one task may wait for its end."""

    @property
    def pid(self) -> int:
        """Its number, which no other process gets while it is held."""

    async def send(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""

    async def wait_end(self) -> None:
        """Wait until it has ended."""

    async def wait(self) -> str:
        """Wait until it has ended; how it ended, for a person: `ended with status 1: its last line`."""

    def close(self) -> None:
        """Release it. It continues."""


class ChildProcess:
    """A process that an agent started itself. `output`: its log file."""

    def __init__(self, process: HeldProcess, output: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._output = output

    async def send(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        self._process.send(number)

    async def wait_end(self) -> None:
        """Wait until it has ended."""
        await self._process.wait_end()

    async def wait(self) -> str:
        """Wait until it has ended; how it ended, for a person."""
        status = await self._process.wait()
        return describe_end(status, last_line(self._output))

    def close(self) -> None:
        """Release it. It continues."""
        self._process.close()


KILL_TIME = 10.0  # seconds for the kernel to end a process after SIGKILL; one whose disk is dead never ends


async def end_process(process: InstanceProcess, drain: float) -> None:
    """End a process, by SIGKILL if it has not ended `drain` seconds after SIGTERM. Raises HostError if it runs on."""
    await process.send(signal.SIGTERM)
    log_milestone(Withdrawing.TERMINATED)
    with trio.move_on_after(drain):
        await process.wait_end()
        return
    await process.send(signal.SIGKILL)
    with trio.move_on_after(KILL_TIME):
        await process.wait_end()
        return
    raise unusable(
        f"the proxy's process {process.pid} does not end: it still runs {KILL_TIME:.0f} s after SIGKILL was sent",
        f"see what holds it: cat /proc/{process.pid}/status; end it: kill -s KILL {process.pid}",
    )


def describe_end(status: int | None, line: str = "") -> str:
    """The end of a process: exit status (negative: a signal; None: unknown), and its last line."""
    if status is None:
        end = "ended (an earlier agent started it, so its exit status is unknown)"
    elif status < 0:
        end = f"was ended by {signal.Signals(-status).name}"
    else:
        end = f"ended with status {status}"
    return f"{end}: {line}" if line else end
