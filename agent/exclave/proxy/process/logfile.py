"""What the proxy prints: to a file of bounded size, which goes on when the agent does not.

Rules: the proxy appends to one file and needs nobody to read it, so it survives the agent; the agent looks at the size
now and then, keeps the newest part beside it as `.1`, and empties it. Lines written in that moment may be lost.
"""

import os
from pathlib import Path

import trio

from exclave.kit.host.atomic import remove

MAX_SIZE = 8 * 1024 * 1024
"""Bytes after which the file is cut."""

REMAINING_SIZE = 2 * 1024 * 1024
"""Bytes of it that are kept."""

CHECK_INTERVAL = 60.0
"""Seconds between looks at the size."""

MAX_LINE = 300


def output_path(runtime: Path, instance: str) -> Path:
    """Where an instance's output goes."""
    return runtime / f"proxy-{instance}.log"


async def bound_output(path: Path) -> None:
    """Cut the file whenever it has grown too large, for ever."""
    while True:
        cut_output(path)
        await trio.sleep(CHECK_INTERVAL)


def cut_output(path: Path) -> None:
    """Cut the file if it is too large; it may be absent."""
    try:
        if path.stat().st_size <= MAX_SIZE:
            return
        with path.open("rb") as file:
            file.seek(-REMAINING_SIZE, os.SEEK_END)
            newest = file.read(REMAINING_SIZE)
        path.with_suffix(".log.1").write_bytes(newest)
        os.truncate(path, 0)
    except OSError:
        return  # a full disk or a vanished file: the proxy's own affair


def last_line(path: Path) -> str:
    """The last line that is not empty, cut to what fits a log; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    return next((line[:MAX_LINE] for line in reversed(lines) if line), "")


def remove_output(runtime: Path, instance: str) -> None:
    """Remove an instance's files. Raises HostError."""
    for suffix in (".log", ".log.1"):
        remove(output_path(runtime, instance).with_suffix(suffix))
