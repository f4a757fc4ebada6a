"""Finds the ports of SSH servers whose sockets an agent with few capabilities may not list.

Listing the files of another process needs CAP_SYS_PTRACE. But each listening socket belongs to the cgroup of the
service that made it, and so do the connections that it accepts. `ss` prints this cgroup. Sources: ss(8), --cgroup;
systemd.socket(5).
"""

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil
import trio

from exclave.kit.host.command import run_command

LIST_TIME = 10.0  # seconds for ss; it takes milliseconds

_LOOPBACK = ("127.", "[::1]")
_CGROUP = re.compile(r"\bcgroup:(\S+)")


async def find_hidden_ssh_ports(servers: Collection[str]) -> tuple[int, ...]:
    """The ports where services with such a program listen or serve; none if `ss` cannot list them."""
    services = await trio.to_thread.run_sync(find_hidden_services, frozenset(servers))
    if not services:
        return ()
    try:
        done = await run_command(["ss", "-Hante", "--cgroup"], timeout=LIST_TIME)
    except (OSError, trio.TooSlowError):
        return ()
    return ports_of_services(done.output.decode("utf-8", "replace"), services)


def find_hidden_services(servers: frozenset[str]) -> frozenset[str]:
    """The cgroups of services that run one of these programs and hide its sockets from us."""
    found = set()
    for process in psutil.process_iter(["name"]):
        folder = Path("/proc", str(process.pid))
        if process.info["name"] not in servers:
            continue
        with suppress(OSError):  # it has ended
            if _is_hidden(folder):
                found.add(service_of((folder / "cgroup").read_text()))
    return frozenset(found - {""})


def _is_hidden(folder: Path) -> bool:
    try:
        os.readlink(folder / "ns/net")
    except PermissionError:
        return True
    return False


def service_of(cgroups: str) -> str:
    """The cgroup of a process in a service, by /proc/PID/cgroup; "" in none. Source: cgroups(7), version 2."""
    paths = [line.removeprefix("0::") for line in cgroups.splitlines() if line.startswith("0::")]
    return paths[0] if paths and paths[0].endswith(".service") else ""


def ports_of_services(listed: str, services: Collection[str]) -> tuple[int, ...]:
    """The local ports of sockets of these services, or of their socket units, in the output of `ss`.

    A listener on the loopback device is a port that a user forwards.
    """
    cgroups = {*services, *(f"{service.removesuffix('.service')}.socket" for service in services)}
    ports = set()
    for line in listed.splitlines():
        fields, cgroup = line.split(), _CGROUP.search(line)
        if len(fields) > 3 and cgroup is not None and cgroup[1] in cgroups:
            address, _, port = fields[3].rpartition(":")
            if port.isdecimal() and not address.startswith(_LOOPBACK):
                ports.add(int(port))
    return tuple(sorted(ports))
