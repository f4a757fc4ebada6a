"""The proxy's log file, and its limited size. It is a file and not a pipe, so that the proxy outlives the agent."""

import os
import stat
from pathlib import Path

import trio

from exclave.kit.host.files import remove

MAX_SIZE = 8 * 1024 * 1024  # bytes above which the newest part is moved to `.1` and the file emptied
REMAINING_SIZE = 2 * 1024 * 1024  # bytes that are moved to `.1`; lines that are printed in that moment may be lost
CHECK_INTERVAL = 60.0  # seconds between two checks of the size

MAX_LINE = 300


def output_path(runtime: Path, instance: str) -> Path:
    """The file for an instance's output."""
    return runtime / f"proxy-{instance}.log"


async def bound_output(path: Path) -> None:
    """Cut the file whenever it is too large, until cancelled."""
    while True:
        cut_output(path)
        await trio.sleep(CHECK_INTERVAL)


def cut_output(path: Path) -> None:
    """Cut the file if it is too large. It may be absent."""
    try:
        status = path.stat()
        if status.st_size <= MAX_SIZE:
            return
        with path.open("rb") as file:
            file.seek(-REMAINING_SIZE, os.SEEK_END)
            newest = file.read(REMAINING_SIZE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(path.with_suffix(".log.1"), flags, 0o600), "wb") as older:
            os.fchmod(older.fileno(), stat.S_IMODE(status.st_mode))  # before it has content, which others could read
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


def output_files(runtime: Path, instance: str) -> list[Path]:
    """The files that an instance's output may be in."""
    return [output_path(runtime, instance).with_suffix(suffix) for suffix in (".log", ".log.1")]


def remove_output(runtime: Path, instance: str) -> None:
    """Remove an instance's files. Raises HostError."""
    for path in output_files(runtime, instance):
        remove(path)
