"""Restores the runtime folder while the agent runs, when somebody has emptied it.

Its records belong to processes that go on: without them, the next agent would start proxies beside those that run,
and take a new name for this boot, so that the cluster would count two machines.
"""

import logging
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from exclave.errors import HostError
from exclave.kit.host.files import HeldLock, make_folder, write_atomic

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two readings
MOST_BYTES = 1024 * 1024  # of a file that is restored

_SUFFIXES = (".json", ".env", ".conf")  # also of files in the folder `proxy-etc`, which has names of its own
_PROXY_ETC = "proxy-etc"


@dataclass(frozen=True)
class StoredFile:
    """The content of a file, and what shows that it has changed."""

    content: bytes
    mode: int
    stamp: tuple[int, int, int]


Files = dict[Path, StoredFile]


class RuntimeFolder:
    """The files of the folder as they were read last. The agent's lock, which is always there, shows a removal."""

    def __init__(self, folder: Path, lock: HeldLock) -> None:
        self._folder = folder
        self._lock = lock
        self._files: Files = {}

    async def run(self) -> None:
        """Read or restore at intervals, until cancelled."""
        while True:
            try:
                self.refresh()
            except (OSError, HostError) as problem:
                log.warning("the folder %s was emptied and cannot be restored yet: %s", self._folder, problem)
            await trio.sleep(INTERVAL)

    def refresh(self) -> None:
        """Read the files; restore them if the agent's lock is gone. Raises OSError, HostError."""
        if self._lock.is_in_place():
            files = dict(_read_files(self._folder, self._files))
            if self._lock.is_in_place():  # else it is being emptied now
                self._files = files
                return
        make_folder(self._folder, 0o755)
        restored = [path for path in self._files if not path.exists()]
        for path in restored:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            write_atomic(path, self._files[path].content, self._files[path].mode)
        self._lock.renew()
        log.warning("somebody has emptied %s: %d files were restored", self._folder, len(restored))


def _read_files(folder: Path, known: Files) -> Iterator[tuple[Path, StoredFile]]:
    for path in (*folder.iterdir(), *(folder / _PROXY_ETC).glob("*")):
        if path.name.startswith(".") or not (path.suffix in _SUFFIXES or path.parent.name == _PROXY_ETC):
            continue
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
                continue
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            before = known.get(path)
            if before is None or before.stamp != stamp:
                before = StoredFile(path.read_bytes(), stat.S_IMODE(found.st_mode), stamp)
        except FileNotFoundError:
            continue  # removed in the meantime
        yield path, before
