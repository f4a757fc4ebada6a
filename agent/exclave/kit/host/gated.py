"""A process that outlives its parent: started at a gate, recorded, released, and adopted by a later agent.

The gate is a pipe on its standard input. The record is on disk before the gate opens, so every process has one.
"""

import fcntl
import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio

from exclave.kit.host.process_identity import ProcessRecord, mismatch
from exclave.kit.host.procfs import open_pidfd, read_boot_id, view_process

GATE = "read -r _ || exit 0"  # begins the child's shell: a line opens the gate; the pipe's end ends the child

_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them, and a child would inherit that

_FIRST_OWN = 10  # descriptors below are for the child

Record = TypeVar("Record")


class HeldProcess:
    """A process held by a pidfd, so a signal never reaches another process. `close` does not end it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def send(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int | None:
        """Wait until it has ended; its exit status (negative: a signal), None if it is not our child."""
        await self.wait_end()
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)  # noqa: ASYNC222  it has ended: this returns at once
        except ChildProcessError:
            return None
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def has_ended(self) -> bool:
        """True if it has ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait_end(self) -> None:
        """Wait until it has ended, without reaping it."""
        await trio.lowlevel.wait_readable(self._pidfd)

    def close(self) -> None:
        """Release it."""
        os.close(self._pidfd)


class GatedProcess:
    """A child that waits at its gate."""

    def __init__(self, process: HeldProcess, gate: int) -> None:
        self.process = process
        self._gate = gate

    async def release(self, store: Callable[[int], Record]) -> Record:
        """Let `store` write the record of this pid, open the gate, return the record. If `store` raises, cancel."""
        try:
            record = store(self.process.pid)
        except BaseException:
            await self.cancel()
            raise
        self.open_gate()
        return record

    def open_gate(self) -> None:
        """Let the child start its program."""
        with suppress(BrokenPipeError):  # it has ended already: `wait` reports that
            os.write(self._gate, b"\n")
        os.close(self._gate)

    async def cancel(self) -> None:
        """End the child at its gate, and release it."""
        os.close(self._gate)
        await self.process.wait()
        self.process.close()


def start_gated(
    path: str, command: Sequence[str], environment: Mapping[str, str], file_actions: Sequence[tuple[Any, ...]]
) -> GatedProcess:
    """Start a child in its own session, so that no signal to us reaches it. Raises OSError.

    Its shell begins with `GATE`. `file_actions` are those of `os.posix_spawn`, for descriptors from 1 on.
    """
    gate_end, gate = open_high_pipe()
    try:
        pid = os.posix_spawn(
            path,
            list(command),
            dict(environment),
            file_actions=[(os.POSIX_SPAWN_DUP2, gate_end, 0), *file_actions],
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET_SIGNALS,
        )
    except OSError:
        os.close(gate)
        raise
    finally:
        os.close(gate_end)
    return GatedProcess(HeldProcess(pid, os.pidfd_open(pid)), gate)


def open_high_pipe() -> tuple[int, int]:
    """A pipe that is not inherited, with descriptors above a child's: no file action overwrites them."""
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    return reading, writing


def make_record(pid: int, executable: str) -> ProcessRecord:
    """The record of a child that will run `executable`. If the child has ended already, it matches no process."""
    view = view_process(pid)
    return ProcessRecord(pid, view.start_ticks if view is not None else 0, read_boot_id(), executable)


def adopt_process(record: ProcessRecord) -> HeldProcess | str:
    """The recorded process, or why it cannot be adopted. It is held before the comparison, so both mean one process.

    Raises PermissionError for a process of another user without CAP_SYS_PTRACE.
    """
    pidfd = open_pidfd(record.pid)
    try:
        reason = mismatch(record, read_boot_id(), view_process(record.pid) if pidfd is not None else None)
    except PermissionError:
        if pidfd is not None:
            os.close(pidfd)
        raise
    if pidfd is None:
        return reason or "it has ended"
    if reason is None:
        return HeldProcess(record.pid, pidfd)
    os.close(pidfd)
    return reason
