"""Signals that end the agent are recorded while it cannot receive them: during its start, and before its program is
replaced. Otherwise one that comes at such a time would end the process at once, with rules and proxies in place.

A handler records them. Blocked signals would stay blocked in every child. Only around `exec` they are blocked: then
they stay pending for the next program.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_recorded: list[int] = []  # of this process, as handlers are


@contextmanager
def ending_signals_recorded() -> Iterator[None]:
    """Record them while the block runs, in the main thread. They may be blocked before."""
    former = {number: signal.signal(number, _record) for number in ENDING_SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in former.items():
            signal.signal(number, handler)
        _recorded.clear()


def _record(number: int, frame: FrameType | None) -> None:
    _recorded.append(number)


def raise_recorded() -> None:
    """Raise the recorded signals again, for handlers that receive them."""
    numbers, _recorded[:] = list(_recorded), []
    for number in numbers:
        signal.raise_signal(number)


def wait_signal(seconds: float) -> int | None:
    """Wait so long for one of them; None without one."""
    deadline = time.monotonic() + seconds
    with _blocked():
        if _recorded:
            return _recorded.pop(0)
        received = signal.sigtimedwait(ENDING_SIGNALS, max(0.0, deadline - time.monotonic()))
    return received.si_signo if received is not None else None


def block_until_exec() -> None:
    """Block them for good, and let the recorded ones be pending: the program that is executed next receives them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    raise_recorded()


@contextmanager
def _blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
