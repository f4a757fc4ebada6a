"""The file that the proxy prints to, and its limited size.

The proxy appends to a file and not to a pipe, so it goes on when the agent ends. When the file is too large, the agent
moves its newest part to `.1` and empties it. Lines that the proxy prints in that moment may be lost.
"""

import os
import stat
from pathlib import Path

import trio

from exclave.kit.host.files import remove

MAX_SIZE = 8 * 1024 * 1024  # bytes from which on the file is cut
REMAINING_SIZE = 2 * 1024 * 1024  # bytes that are moved to `.1`
CHECK_INTERVAL = 60.0  # seconds between two checks of the size

MAX_LINE = 300


def output_path(runtime: Path, instance: str) -> Path:
    """The file that an instance prints to."""
    return runtime / f"proxy-{instance}.log"


async def bound_output(path: Path) -> None:
    """Cut the file whenever it is too large, for ever."""
    while True:
        cut_output(path)
        await trio.sleep(CHECK_INTERVAL)


def cut_output(path: Path) -> None:
    """Cut the file if it is too large; it may be absent."""
    try:
        status = path.stat()
        if status.st_size <= MAX_SIZE:
            return
        with path.open("rb") as file:
            file.seek(-REMAINING_SIZE, os.SEEK_END)
            newest = file.read(REMAINING_SIZE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(path.with_suffix(".log.1"), flags, 0o600), "wb") as older:
            os.fchmod(older.fileno(), stat.S_IMODE(status.st_mode))  # before it has content that others could read
            older.write(newest)
        os.truncate(path, 0)
    except OSError:
        return  # a full disk or a missing file must not end the agent's task


def last_line(path: Path) -> str:
    """The last line that is not empty, at most `MAX_LINE` characters; "" if there is none."""
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
