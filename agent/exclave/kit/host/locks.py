"""One agent at a time, and one join at a time: locks that the kernel lets go of when their process ends.

Blocking: flock(2) without waiting. The file goes with the lock; whoever has opened the one that went looks again, so
that two processes never hold two files of one name.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exclave.errors import Fault, HostError


@contextmanager
def hold_lock(path: Path, holder: str, hint: str) -> Iterator[None]:
    """Hold the lock while the block runs. Raises HostError if another process does; `holder` says who that is."""
    descriptor = _acquire(path)
    if descriptor is None:
        raise HostError(Fault.ANOTHER_AGENT, f"{holder} runs already: it holds {path}", hint)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # still locked: nobody else has it
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """A descriptor of the locked file that stands at `path` now; None if another process holds it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise HostError(
                Fault.DISK, f"cannot open {path}: {problem.strerror}", "make its folder exist and writable for root"
            ) from problem
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # it went between two looks
        os.close(descriptor)
