"""Finds out whether the binary on disk is still the one that runs."""

import hashlib
from pathlib import Path

import trio

from exclave.proxy.process.instances import BinaryId

SETTLING = 3.0
"""Seconds that another binary must stay unchanged before it counts: it may be half-written."""

CHUNK = 1024 * 1024


async def identify_binary(path: Path, *former: BinaryId | None) -> BinaryId | None:
    """The identity of the binary at `path`, None if there is no file.

    Its content is read only if its stamp is not that of one in `former`. A package that is installed again has a new
    stamp and the same content, so the content decides.
    """
    try:
        stamp = stamp_of(path)
        for one in former:
            if one is not None and one.stamp == stamp:
                return one
        return BinaryId(stamp, await trio.to_thread.run_sync(_digest, path))
    except OSError:
        return None


class BinaryWatch:
    """Polls the binary at one path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: BinaryId | None = None
        self._since = 0.0

    async def poll(self, running: BinaryId | None) -> BinaryId | None:
        """The binary on disk if it is another one and has settled, else the one that runs."""
        found, now = await identify_binary(self._path, running, self._newest), trio.current_time()
        if found != self._newest:
            self._newest, self._since = found, now
        return found if found is not None and now - self._since >= SETTLING else running


def stamp_of(path: Path) -> str:
    """`device:inode:size:mtime` of a file. Raises OSError."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]
