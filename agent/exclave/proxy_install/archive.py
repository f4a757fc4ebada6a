"""Takes one file out of a layer, which may have been made to do harm: links, devices, a small file that unpacks huge.

Nothing is unpacked by its name: the content of one regular file is copied to a place of ours.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import trio

from exclave.proxy_install.manifest import BadImage

LARGEST_PROGRAM = 512 * 1024 * 1024  # bytes. Linkerd's proxy has some 50 MB.
MOST_UNPACKED = 2 * 1024 * 1024 * 1024  # bytes of one layer
MOST_ENTRIES = 100_000
LARGEST_HEADER = 64 * 1024  # bytes of a long name or of extended attributes, which `tarfile` reads whole
CHUNK = 1024 * 1024

_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _BoundedEntry(tarfile.TarInfo):
    """An entry whose header has a bounded size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_BoundedEntry":
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDED and found.size > LARGEST_HEADER:
            raise BadImage(f"the archive has a header of {found.size} bytes")
        return found


class _Bounded:
    """A stream of which at most so many bytes are read."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream = stream
        self._left = most

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises BadImage."""
        found = self._stream.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise BadImage("the archive unpacks to more bytes than any image of the proxy has")
        return found


async def extract(layer: Path, compression: str, name: str, target: Path) -> bool:
    """Copy the file `name` of a layer to `target`. False if the layer has no such file.

    `compression`: `gz`, or "" for none. Raises BadImage, OSError.
    """
    return await trio.to_thread.run_sync(_extract, layer, compression, PurePosixPath(name), target)


def _extract(layer: Path, compression: str, name: PurePosixPath, target: Path) -> bool:
    with layer.open("rb") as file, _faults(), gzip.open(file) if compression else file as plain:
        bounded = _Bounded(plain, MOST_UNPACKED)  # type: ignore[arg-type]
        with tarfile.open(mode="r|", fileobj=bounded, tarinfo=_BoundedEntry) as archive:  # type: ignore[call-overload]
            for number, entry in enumerate(archive):
                if number >= MOST_ENTRIES:
                    raise BadImage(f"the archive has more than {MOST_ENTRIES} entries")
                if PurePosixPath(entry.name.lstrip("./")) == name:
                    _copy(archive, entry, target)
                    return True
    return False


def _copy(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    content = archive.extractfile(entry) if entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
    if content is None:
        raise BadImage(f"{entry.name} is no regular file in the image")
    if entry.size > LARGEST_PROGRAM:
        raise BadImage(f"{entry.name} has {entry.size} bytes, more than any proxy")
    with target.open("xb") as file:
        while chunk := content.read(CHUNK):
            file.write(chunk)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as problem:
        if isinstance(problem, BadImage):
            raise
        raise BadImage(f"the layer is no archive that can be read ({type(problem).__name__})") from None
