"""The kernel's word on processes. Blocking: small files in /proc, which never wait."""

import os
from pathlib import Path

from exclave.kit.host.process_identity import ProcessView, start_ticks_of


def view_process(pid: int) -> ProcessView | None:
    """What the kernel says of a process now; None if it has ended."""
    folder = Path("/proc", str(pid))
    try:
        return ProcessView(start_ticks_of((folder / "stat").read_text()), os.readlink(folder / "exe"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_boot_id() -> str:
    """The kernel's name for the time since the last boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_tcp_tables() -> tuple[str, ...]:
    """The kernel's tables of TCP sockets of each family that there is; long ones take milliseconds."""
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    return tuple(table.read_text() for table in tables if table.exists())


def open_pidfd(pid: int) -> int | None:
    """A descriptor that holds a process, so that its number is nobody else's meanwhile; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
