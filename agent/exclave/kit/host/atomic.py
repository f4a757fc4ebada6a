"""Files written whole or not at all: temporary file, fsync, rename, fsync of the folder.

A full or read-only disk raises HostError and leaves the file that was there.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from exclave.errors import Fault, HostError


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `content`, so that a reader or a crash sees the old bytes or the new ones, whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as problem:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _translated(problem, path) from problem


def remove(path: Path) -> None:
    """Remove a file that may be absent, also with its folder or on a disk that takes no writes; make it last."""
    if not path.parent.is_dir() or not (os.path.lexists(path) or os.access(path.parent, os.W_OK)):
        return
    try:
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as problem:
        raise _translated(problem, path) from problem


def move(source: Path, target: Path) -> None:
    """Put a file in another's place, on one filesystem, and make that last."""
    try:
        source.replace(target)
        _sync_folder(target.parent)
    except OSError as problem:
        raise _translated(problem, target) from problem


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_REMEDIES = {
    errno.ENOSPC: "free some space on that disk; the file that was there is untouched",
    errno.EDQUOT: "raise the quota or free some space; the file that was there is untouched",
    errno.EROFS: "mount that filesystem writable; the file that was there is untouched",
}


def _translated(problem: OSError, path: Path) -> HostError:
    hint = _REMEDIES.get(problem.errno or 0, "make that folder exist and writable for root")
    return HostError(Fault.DISK, f"cannot write {path}: {problem.strerror}", hint)
