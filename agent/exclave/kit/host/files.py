"""Files that are written completely or not at all, and lock files. A full or read-only disk leaves the old file."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exclave.errors import Fault, HostError

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk; the file that was there is untouched",
    errno.EDQUOT: "raise the quota or free some space; the file that was there is untouched",
    errno.EROFS: "mount that filesystem writable; the file that was there is untouched",
}


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `content`: after a crash, it has all old bytes or all new ones. Raises HostError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask may have removed rights of others
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
    """Remove a file, which may be absent, durably, with the temporary files of interrupted writes."""
    if not path.parent.is_dir():
        return
    found = [path, *_temporaries(path)]
    if not any(map(os.path.lexists, found)) and not os.access(path.parent, os.W_OK):
        return
    for one in found:
        try:
            one.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as problem:
            raise _translated(problem, one) from problem


def remove_folder(folder: Path) -> None:
    """Remove a folder, which may be absent, with its files. Raises HostError naming every file that remains."""
    if not os.path.lexists(folder):
        return
    failures: list[str] = []
    try:
        for path in sorted(folder.iterdir()):
            try:
                path.unlink()
            except OSError as problem:
                failures.append(f"{path} ({problem.strerror})")
        if not failures:
            folder.rmdir()
            _sync_folder(folder.parent)
    except OSError as problem:
        failures.append(f"{folder} ({problem.strerror})")
    if failures:
        raise HostError(Fault.DISK, f"cannot remove {', '.join(failures)}", f"remove it yourself: rm -r {folder}")


def _temporaries(path: Path) -> Iterator[Path]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    return (one for one in path.parent.iterdir() if pattern.fullmatch(one.name))


def move(source: Path, target: Path) -> None:
    """Replace a file by another one of the same filesystem, durably."""
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


def _translated(problem: OSError, path: Path) -> HostError:
    hint = _REMEDIES.get(problem.errno or 0, "make that folder exist and writable for root")
    return HostError(Fault.DISK, f"cannot write {path}: {problem.strerror}", hint)


def make_folder(path: Path, mode: int) -> None:
    """Make a folder that may exist, with exactly this mode. Raises HostError.

    Writes nothing if it is as it should be: a member also starts if its state folder is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        text = f"cannot make folder {path}: {problem.strerror}"
        raise HostError(Fault.DISK, text, "make its parent writable for root") from problem
    try:
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
    except OSError as problem:
        text = f"cannot change the mode of folder {path} to {mode:o}: {problem.strerror}"
        raise HostError(Fault.DISK, text, "make it writable for root") from problem


class HeldLock:
    """A lock that this process holds. Made by `hold_lock`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def is_in_place(self) -> bool:
        """True if the path still names the locked file."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def renew(self) -> None:
        """Lock the path again after somebody has removed the file. Raises HostError."""
        if self.is_in_place():
            return
        descriptor = _acquire(self._path)
        if descriptor is None:
            text = f"another process has locked {self._path} after somebody removed that file"
            raise HostError(Fault.ANOTHER_AGENT, text, "end one of the two")
        os.close(self._descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the file and the lock."""
        if self.is_in_place():
            self._path.unlink(missing_ok=True)  # still locked, so no other process uses it
        os.close(self._descriptor)


@contextmanager
def hold_lock(path: Path, holder: str, hint: str) -> Iterator[HeldLock]:
    """Hold the lock while the block runs. Raises HostError, which names `holder`, if another process holds it.

    flock(2) without waiting: the kernel releases the lock when the process ends.
    """
    descriptor = _acquire(path)
    if descriptor is None:
        raise HostError(Fault.ANOTHER_AGENT, f"{holder} runs already: it holds {path}", hint)
    lock = HeldLock(path, descriptor)
    try:
        yield lock
    finally:
        lock.release()


def _acquire(path: Path) -> int | None:
    """A descriptor of the locked file that `path` names now; None if another process holds it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            text = f"cannot open {path}: {problem.strerror}"
            raise HostError(Fault.DISK, text, "make its folder exist and writable for root") from problem
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # another process has removed the file: open the new one
        os.close(descriptor)
