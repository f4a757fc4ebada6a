"""Signals that end the agent wait while it cannot receive them: during its start, and while its program is replaced.

A blocked signal stays pending, also over `exec`. Without this, one that comes at such a time ends the process at once,
with rules and proxies in place.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def ending_signals_blocked() -> Iterator[None]:
    """Block them in this thread while the block runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ending_signals_received() -> Iterator[None]:
    """Unblock them in this thread while the block runs, which must have handlers for them."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
