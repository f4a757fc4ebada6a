"""Runs of trio that end with their test: one that hangs is broken off, and says what it waited for.

Rules: pytest-timeout raises in whatever runs when its signal comes, which in a run of trio is trio itself: the run
would be left behind half, and asynchronous tests after it fail. So the signal cancels the run instead, and the test
fails with the awaits it stood at. What cannot be cancelled within `LAST_WORDS` is left to pytest-timeout after all.
"""

import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import trio

LAST_WORDS = 30.0
"""Seconds of real time that a test which is broken off has to clean up."""


class Run:
    """One run of trio, of the thread that makes it."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._task: trio.lowlevel.Task | None = None
        self.stood_at: str | None = None

    def run(self, test: Callable[[], Awaitable[None]], clock: trio.abc.Clock | None) -> None:
        """Run it; fails if it was broken off."""

        async def main() -> None:
            self._token, self._task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
            with self._scope:
                await test()

        try:
            trio.run(main, clock=clock, strict_exception_groups=True)
        except BaseException as problem:
            if self.stood_at is None:
                raise
            pytest.fail(f"{self.stood_at}\nand broken off there it raised {problem!r}", pytrace=False)
        if self.stood_at is not None:
            pytest.fail(self.stood_at, pytrace=False)

    def break_off(self) -> bool:
        """Have it end, from a signal or another thread; False if it has not begun or was broken off before."""
        if self._token is None or self._task is None or self.stood_at is not None:
            return False
        self.stood_at = "Timeout: the test stood at\n" + "".join(_stacks(self._task))
        self._token.run_sync_soon(self._scope.cancel)
        return True


@contextmanager
def cancelled_at_timeout(run: Run) -> Iterator[None]:
    """While open, pytest-timeout's signal breaks the run off, whichever thread it is in. For the main thread."""
    raising = signal.getsignal(signal.SIGALRM)
    if not callable(raising):  # no limit, or another method than signals
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        if run.break_off():
            signal.setitimer(signal.ITIMER_REAL, LAST_WORDS)
        else:
            raising(number, frame)

    signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGALRM) is ring:
            signal.signal(signal.SIGALRM, raising)


def _stacks(task: trio.lowlevel.Task) -> Iterator[str]:
    """Where a task and those that it has started wait, each with its innermost await last."""
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
