"""Processes, sockets and interfaces, as the kernel reports them. Blocking, but fast."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import netifaces
import psutil

from exclave.kit.host.process_identity import ProcessView, start_ticks_of


def view_process(pid: int) -> ProcessView | None:
    """The process as it is now; None if it has ended."""
    folder = Path("/proc", str(pid))
    try:
        return ProcessView(start_ticks_of((folder / "stat").read_text()), os.readlink(folder / "exe"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_tcp_tables() -> tuple[str, ...]:
    """The kernel's tables of TCP sockets, one per address family. Long tables take milliseconds."""
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    return tuple(table.read_text() for table in tables if table.exists())


def list_tcp_sockets(process: psutil.Process) -> Sequence[Any]:
    """The TCP sockets of a process. Raises psutil.Error. psutil 6 renamed the method."""
    list_sockets = process.net_connections if hasattr(process, "net_connections") else process.connections
    found: Sequence[Any] = list_sockets(kind="tcp")
    return found


def open_pidfd(pid: int) -> int | None:
    """A pidfd, which reserves the process's number; None if the process has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def local_addresses() -> frozenset[str]:
    """IPv4 and IPv6 addresses of all interfaces, without prefix length and zone."""
    found: set[str] = set()
    for name in netifaces.interfaces():
        with suppress(ValueError):  # the interface was removed after it was listed
            families = netifaces.ifaddresses(name)
            for family in (netifaces.AF_INET, netifaces.AF_INET6):
                found |= {entry["addr"].partition("%")[0] for entry in families.get(family, ()) if "addr" in entry}
    return frozenset(found)
