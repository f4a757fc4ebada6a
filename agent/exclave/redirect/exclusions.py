"""Finds what this host excludes from capture: configured users and groups, as numbers, and every access by SSH.

A capture must not lock out people who work here over SSH, so listening, serving and configured ports all count.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import trio

from exclave.config import RedirectConfig
from exclave.kit.host.accounts import LOOKUP_TIME, find_group, find_user, is_number
from exclave.kit.host.procfs import is_in_our_network, list_tcp_sockets
from exclave.redirect.hidden_ssh import find_hidden_ssh_ports
from exclave.redirect.rules.policy import HostExclusions

SERVERS = frozenset({"sshd", "sshd-session", "dropbear"})  # since OpenSSH 9.8, sessions are in `sshd-session`

CONFIGURATION = Path("/etc/ssh")

_PORT = re.compile(
    r"^[ \t]*Port[ \t]*[ \t=][ \t]*\"?([0-9]{1,5})\"?[ \t]*(?:#.*)?$", re.ASCII | re.IGNORECASE | re.MULTILINE
)


async def find_exclusions(config: RedirectConfig) -> HostExclusions:
    """Search once. Raises ValueError listing users and groups that do not exist."""
    uids, gids = await find_accounts(config)
    ports = await find_all_ssh_ports()
    peer, port = await trio.to_thread.run_sync(find_ssh_session)
    return HostExclusions(uids, gids, tuple(sorted({*ports, *port})), peer)


async def find_accounts(config: RedirectConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the excluded users and groups. Raises ValueError listing those that do not exist."""
    missing: list[str] = []
    uids = await _numbers(config.exclude_users, _find_uid, "exclude_users", "user", missing)
    gids = await _numbers(config.exclude_groups, find_group, "exclude_groups", "group", missing)
    if missing:
        raise ValueError("; ".join(missing))
    return uids, gids


async def _find_uid(name: str) -> int | None:
    user = await find_user(name)
    return None if user is None else user.uid


async def _numbers(
    names: Sequence[str], find: Callable[[str], Awaitable[int | None]], key: str, what: str, missing: list[str]
) -> tuple[int, ...]:
    numbers = []
    for name in names:
        try:
            number = int(name) if is_number(name) else await find(name)
        except trio.TooSlowError:
            raise ValueError(
                f"redirect.{key}: the name service did not answer within {LOOKUP_TIME:.0f} s which {what} {name} is"
            ) from None
        if number is None:
            missing.append(f"redirect.{key}: there is no {what} {name}")
        else:
            numbers.append(number)
    return tuple(numbers)


async def find_all_ssh_ports() -> tuple[int, ...]:
    """Ports of SSH servers, also of those whose sockets we may not list."""
    ports = await trio.to_thread.run_sync(find_ssh_ports)
    return tuple(sorted({*ports, *await find_hidden_ssh_ports(SERVERS)}))


def find_ssh_ports() -> tuple[int, ...]:
    """Ports where SSH servers listen, serve a session now, or are configured to listen."""
    ports = set(_configured_ports())
    for process in psutil.process_iter(["name"]):
        if process.info["name"] not in SERVERS or not is_in_our_network(process.pid):
            continue
        try:
            if not _is_session(process):
                ports |= _server_ports(sorted(list_tcp_sockets(process), key=lambda found: int(found.fd)))
        except psutil.Error:
            continue  # the process has ended
    return tuple(sorted(ports))


def _is_session(process: psutil.Process) -> bool:
    """True if a listening server started it. The listening sockets of a session are ports that its user forwards."""
    parent = process.parent()
    return parent is not None and parent.name() in SERVERS


def _server_ports(sockets: Sequence[Any]) -> set[int]:
    """The ports on which a server serves. `sockets` are in the order in which it opened them."""
    listening = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
    # A server started for one connection has that connection first; the sockets after it are forwarded ports.
    called = [each.laddr.port for each in sockets[:1] if each.status == psutil.CONN_ESTABLISHED]
    return set(called) or listening


def _configured_ports() -> Iterator[int]:
    """Every `Port` of OpenSSH's server; unreadable files are skipped. Source: sshd_config(5).

    A server that systemd starts for each connection has no listening socket.
    """
    for path in (CONFIGURATION / "sshd_config", *sorted((CONFIGURATION / "sshd_config.d").glob("*.conf"))):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from (port for port in map(int, _PORT.findall(text)) if 1 <= port <= 65535)


def find_ssh_session() -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Peer and server port of the SSH session that started this process; both empty without a session.

    sudo removes the variable, so the nearest parent that has it counts. Source: ssh(1), SSH_CONNECTION.
    """
    own = psutil.Process()
    for process in (own, *own.parents()):
        try:
            fields = process.environ().get("SSH_CONNECTION", "").split()
        except (psutil.Error, OSError):
            continue
        if len(fields) == 4 and fields[3].isdecimal():
            try:
                return (str(ip_address(fields[0].partition("%")[0])),), (int(fields[3]),)
            except ValueError:
                continue
    return (), ()
