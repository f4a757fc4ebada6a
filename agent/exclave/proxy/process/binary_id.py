"""Which program stands at a path: whether the one that runs is still the one on disk.

Rules: a file is known by device, inode, size and time of change, which costs one look, and by its content's digest,
which is computed only when the former differ: a package that is installed again has new inodes and the same program. A
file counts as changed once it has stayed the same other one for `SETTLING` seconds: nobody judges a half-written one.
"""

import hashlib
from pathlib import Path

import trio

from exclave.proxy.process.instances import BinaryId

SETTLING = 3.0

PIECE = 1024 * 1024


async def identify_binary(path: Path, *known: BinaryId | None) -> BinaryId | None:
    """The program at `path`; of `known` ones whose file it is, the content is not read. None: there is none."""
    try:
        stamp = stamp_of(path)
        for one in known:
            if one is not None and one.stamp == stamp:
                return one
        return BinaryId(stamp, await trio.to_thread.run_sync(_digest, path))
    except OSError:
        return None


class BinaryWatch:
    """Looks at one path again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: BinaryId | None = None
        self._since = 0.0

    async def poll(self, running: BinaryId | None) -> BinaryId | None:
        """The program on disk once it is sure that it is another one; else the one that runs."""
        found, now = await identify_binary(self._path, running, self._newest), trio.current_time()
        if found != self._newest:
            self._newest, self._since = found, now
        return found if found is not None and now - self._since >= SETTLING else running


def stamp_of(path: Path) -> str:
    """What tells a file from others without reading it. Raises OSError."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()[:16]
