"""Processes, sockets and interfaces, as the kernel reports them. Blocking, but fast."""

import os
import socket
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


def has_capability(number: int) -> bool:
    """True if this process has a capability in effect. Source: proc_pid_status(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return bool(effective >> number & 1)


def describe_process(pid: int) -> str:
    """Name and number of a process, for a person; "" if it has ended."""
    try:
        return f"{Path('/proc', str(pid), 'comm').read_text().strip()}, process {pid}"
    except OSError:
        return ""


def is_ipv6_disabled() -> bool:
    """True if a new link of this machine gets no IPv6 addresses. Source: ip-sysctl.rst, disable_ipv6."""
    folder = Path("/proc/sys/net/ipv6/conf")
    try:
        return any((folder / which / "disable_ipv6").read_text().strip() != "0" for which in ("all", "default"))
    except OSError:
        return True  # the kernel has no IPv6


MAX_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")


def has_user_namespaces() -> bool:
    """False if this machine permits none. Source: namespaces(7)."""
    try:
        return MAX_USER_NAMESPACES.read_text().strip() != "0"
    except OSError:
        return False


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


def is_in_our_network(pid: int) -> bool:
    """True if a process runs in the network namespace of this one."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False  # the process has ended


def local_addresses() -> frozenset[str]:
    """IPv4 and IPv6 addresses of all interfaces, without prefix length and zone."""
    # psutil lists all at once. netifaces lists them anew for each interface, which takes seconds for hundreds of them.
    found = psutil.net_if_addrs().values()
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(each.address.partition("%")[0] for entries in found for each in entries if each.family in families)


def addresses_by_interface() -> dict[str, list[str]]:
    """The same addresses, by the name of their interface. For a person's question: slow with hundreds of them."""
    found: dict[str, list[str]] = {}
    for name in netifaces.interfaces():
        with suppress(ValueError):  # the interface was removed after it was listed
            families = netifaces.ifaddresses(name)
            entries = (*families.get(netifaces.AF_INET, ()), *families.get(netifaces.AF_INET6, ()))
            found[name] = [entry["addr"].partition("%")[0] for entry in entries if "addr" in entry]
    return found
