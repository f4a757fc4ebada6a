"""Runs of trio with a timeout: a test that hangs is cancelled, and fails with the awaits where it hung.

pytest-timeout would raise inside of trio, and later asynchronous tests would fail, too. So its signal cancels the run.
A run that does not end within `CLEANUP_TIME` is left to pytest-timeout.
"""

import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import trio

CLEANUP_TIME = 30.0
"""Seconds of real time that a cancelled test has to clean up."""


class Run:
    """One run of trio, in the thread that makes it. `hung_at`: the awaits where it was cancelled."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._task: trio.lowlevel.Task | None = None
        self.hung_at: str | None = None

    def run(self, test: Callable[[], Awaitable[None]], clock: trio.abc.Clock | None) -> None:
        """Run it. Fails if it was cancelled."""

        async def main() -> None:
            self._token, self._task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
            with self._scope:
                await test()

        try:
            trio.run(main, clock=clock, strict_exception_groups=True)
        except BaseException as problem:
            if self.hung_at is None:
                raise
            pytest.fail(f"{self.hung_at}\nand when it was cancelled it raised {problem!r}", pytrace=False)
        if self.hung_at is not None:
            pytest.fail(self.hung_at, pytrace=False)

    def cancel(self) -> bool:
        """Cancel it, from a signal or another thread; False if it has not begun or was cancelled before."""
        if self._token is None or self._task is None or self.hung_at is not None:
            return False
        self.hung_at = "Timeout: the test hung at\n" + "".join(_stacks(self._task))
        self._token.run_sync_soon(self._scope.cancel)
        return True


@contextmanager
def cancelled_at_timeout(run: Run) -> Iterator[None]:
    """While open, pytest-timeout's signal cancels the run, in whichever thread it is. For the main thread."""
    raising = signal.getsignal(signal.SIGALRM)
    if not callable(raising):  # no limit, or another method than signals
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        if run.cancel():
            signal.setitimer(signal.ITIMER_REAL, CLEANUP_TIME)
        else:
            raising(number, frame)

    signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGALRM) is ring:
            signal.signal(signal.SIGALRM, raising)


def _stacks(task: trio.lowlevel.Task) -> Iterator[str]:
    """Where a task and its children wait, each with its innermost await last."""
    frames = []
    coroutine: Any = task.coro
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    yield f"{task.name}:\n{''.join(traceback.StackSummary.extract(iter(frames)).format())}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _stacks(child)
