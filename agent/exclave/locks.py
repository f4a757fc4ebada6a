"""One agent at a time, and one join at a time: locks that the kernel lets go of when their process ends.

Blocking: flock(2) without waiting. A lock file is never removed, since another process may hold it already.
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
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise HostError(
            Fault.DISK, f"cannot open {path}: {problem.strerror}", "make its folder exist and writable for root"
        ) from problem
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(Fault.ANOTHER_AGENT, f"{holder} runs already: it holds {path}", hint) from None
        yield
    finally:
        os.close(descriptor)
