"""What this host never wants captured: the configuration's users and groups as numbers, and every way in by SSH.

Rules: whoever works on this machine over SSH is not to be locked out by what they start there. Ports count where an SSH
server listens or serves somebody, in this network namespace: one in a container says nothing of the host's ports. A
server that systemd starts for each caller listens nowhere itself, so the ports of its configuration count, too. Found
anew now and then, since servers come and move; nothing is ever taken back while the agent runs.
"""

import grp
import os
import pwd
import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import trio

from exclave.config import RedirectConfig
from exclave.redirect.rules.policy import Surroundings

SERVERS = frozenset({"sshd", "sshd-session", "dropbear"})
"""Names of processes that serve SSH; OpenSSH 9.8 split sessions off."""

CONFIGURATION = Path("/etc/ssh")

_PORT = re.compile(
    r"^[ \t]*Port[ \t]*[ \t=][ \t]*\"?([0-9]{1,5})\"?[ \t]*(?:#.*)?$", re.ASCII | re.IGNORECASE | re.MULTILINE
)


async def look_around(config: RedirectConfig) -> Surroundings:
    """Look once. Raises ValueError listing users and groups that do not exist."""
    uids, gids = find_accounts(config)
    ports = await trio.to_thread.run_sync(find_ssh_ports)
    peer, port = await trio.to_thread.run_sync(find_ssh_session)
    return Surroundings(uids, gids, tuple(sorted({*ports, *port})), peer)


def find_accounts(config: RedirectConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the excluded users and groups. Raises ValueError listing those that do not exist."""
    missing: list[str] = []
    uids = _numbers(config.exclude_users, lambda name: pwd.getpwnam(name).pw_uid, "exclude_users", "user", missing)
    gids = _numbers(config.exclude_groups, lambda name: grp.getgrnam(name).gr_gid, "exclude_groups", "group", missing)
    if missing:
        raise ValueError("; ".join(missing))
    return uids, gids


def _numbers(
    names: Sequence[str], number_of: Callable[[str], int], key: str, what: str, missing: list[str]
) -> tuple[int, ...]:
    numbers = []
    for name in names:
        try:
            numbers.append(int(name) if name.isascii() and name.isdecimal() else number_of(name))
        except KeyError:
            missing.append(f"redirect.{key}: there is no {what} {name}")
    return tuple(numbers)


def find_ssh_ports() -> tuple[int, ...]:
    """Ports where SSH servers listen, or serve somebody now, or would by their configuration."""
    ports = set(_configured_ports())
    for process in psutil.process_iter(["name"]):
        if process.info["name"] not in SERVERS or not _is_here(process.pid):
            continue
        try:
            if not _is_session(process):
                ports |= _server_ports(sorted(_connections(process), key=lambda found: int(found.fd)))
        except psutil.Error:
            continue  # it has ended
    return tuple(sorted(ports))


def _is_session(process: psutil.Process) -> bool:
    """Whether it was started by a server that listens. Such a one holds whatever ports its user forwards."""
    parent = process.parent()
    return parent is not None and parent.name() in SERVERS


def _server_ports(sockets: Sequence[Any]) -> set[int]:
    """The ports of a server's sockets, in the order that it has opened them: where it listens; or else, if it was
    started for one caller, where that one called, for what it opened later is forwarded."""
    listening = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
    called = [each.laddr.port for each in sockets[:1] if each.status == psutil.CONN_ESTABLISHED]
    return set(called) or listening


def _configured_ports() -> Iterator[int]:
    """Every `Port` of OpenSSH's server; a file that cannot be read says nothing. Source: sshd_config(5)."""
    for path in (CONFIGURATION / "sshd_config", *sorted((CONFIGURATION / "sshd_config.d").glob("*.conf"))):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from (port for port in map(int, _PORT.findall(text)) if 1 <= port <= 65535)


def _is_here(pid: int) -> bool:
    """Whether a process is in our network namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False  # it has ended


def _connections(process: psutil.Process) -> Sequence[Any]:
    """A process's TCP sockets; psutil 6 gave the method another name."""
    look = process.net_connections if hasattr(process, "net_connections") else process.connections
    found: Sequence[Any] = look(kind="tcp")
    return found


def find_ssh_session() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The peer and the server's port of the SSH session that this process was started in; nothing outside of one.

    sudo does not hand the variable on, so the nearest parent that has it counts. Source: ssh(1), SSH_CONNECTION.
    """
    own = psutil.Process()
    for process in (own, *own.parents()):
        try:
            told = process.environ().get("SSH_CONNECTION", "").split()
        except (psutil.Error, OSError):
            continue
        if len(told) == 4 and told[3].isdecimal():
            try:
                return (str(ip_address(told[0].partition("%")[0])),), (int(told[3]),)
            except ValueError:
                continue
    return (), ()
