"""Checks that this host can be a member: capabilities, kernel, nft, ip, the link, ports, and rules of other meshes.

It changes nothing: nft only checks a table, and ports are bound without listening. Where our table is in the kernel, a
member works: there, occupied ports and rules of others are warnings.
"""

import errno
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import trio

from exclave.errors import Fault, HostError
from exclave.firewall.observer import find_blocked_before_join
from exclave.host_check.other_meshes import Chains, OtherMesh, find_in_saved, find_in_table, parse_chains
from exclave.kit.host.command import run_command, run_tool, without_json
from exclave.kit.host.procfs import has_capability, is_in_our_network
from exclave.link.layout import ADMIN_PORT, INBOUND_PORT, NETWORK4, NETWORK6, OUTBOUND_PORT
from exclave.link.link import check_link
from exclave.redirect.rules.ruleset import render_for_check

DNS_PORT = 53

SPARE = 5  # an unused address of the private networks: binding it fails only if a program listens on every address

IP_FREEBIND, IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h: bind an address that this host does not have

CAP_NET_ADMIN = 12  # linux/capability.h

LEGACY_TABLES = {False: Path("/proc/net/ip_tables_names"), True: Path("/proc/net/ip6_tables_names")}
"""Files that name the existing tables, by whether they are of IPv6. Listing an absent table would make it."""

NEIGHBOURS = {
    "spire-agent": "a SPIRE agent runs here; exclave does not use it",
    "linkerd2-proxy": "another linkerd2-proxy runs here",
    "pilot-agent": "Istio's agent runs here, and may install its rules again",
}
"""Programs of other meshes: they do no harm by themselves."""


async def check_host(proxy: Path, *, needs_ports: bool = True) -> list[str]:
    """Raise HostError if this host cannot be a member. Returns warnings. `proxy` is our own proxy's program.

    Without `needs_ports`, as for an idle agent, occupied ports are warnings.
    """
    _check_capability()
    _check_kernel()
    await check_link()
    await _check_rules()
    chains = await _read_chains()
    legacy, unread = await _find_in_legacy_tables()
    others = [*await _find_in_nft_tables(chains), *legacy]
    redirected, occupied = [_redirected(found) for found in others if found.is_hooked], _occupied_ports()
    errors = [*redirected, *occupied]
    blocking = errors if needs_ports else redirected
    if blocking and not chains.has_our_table:
        raise blocking[0]
    unused = [f"{found.mesh} left an unused chain {found.chain} in {found.place}" for found in others]
    warnings = unused if not errors else [error.message for error in errors]
    blocked = None if chains.has_our_table else await find_blocked_before_join()
    firewall = [blocked.text] if blocked is not None else []
    return [*warnings, *unread, *firewall, *_neighbours(proxy)]


def _check_capability() -> None:
    if not can_change_network():
        raise _not_permitted("the capability NET_ADMIN is missing")


def _not_permitted(text: str) -> HostError:
    return HostError(
        Fault.NO_PRIVILEGE,
        f"this machine's network cannot be changed: {text}",
        "in a container, give it a network of its own and NET_ADMIN; or install exclave on the virtual machine itself",
    )


def can_change_network() -> bool:
    """True if this process has the capability NET_ADMIN."""
    return has_capability(CAP_NET_ADMIN)


def _check_kernel() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as problem:
        raise HostError(
            Fault.NFT_UNUSABLE,
            f"the kernel {platform.release()} refuses pidfd_open: {problem.strerror}",
            "exclave needs Linux 5.3 or later; in a container, a newer runtime or seccomp profile",
        ) from None


async def _check_rules() -> None:
    """Raise HostError if this kernel would not accept our rules. nft checks them in a transaction that it gives up."""
    done = await run_tool("nft", "--check", "-f", "-", stdin=render_for_check().encode())
    if done.status == 0:
        return
    if "not permitted" in done.errors:
        raise _not_permitted("the kernel does not permit nft to do so")
    raise HostError(
        Fault.NFT_UNUSABLE,
        f"nft and the kernel {platform.release()} do not accept the rules: {done.first_error}",
        "exclave needs nftables 0.9.3 or later, and Linux 5.3 or later with nf_tables, NAT and conntrack "
        "(modules nf_tables, nft_chain_nat, nft_ct, nft_fib_inet)",
    )


async def _read_chains() -> Chains:
    listed = await run_tool("nft", "-j", "list", "chains")
    try:
        return parse_chains(listed.output)
    except ValueError:
        raise without_json(f"nft lists no rules as JSON: {listed.first_error}") from None


async def _find_in_nft_tables(chains: Chains) -> list[OtherMesh]:
    found: list[OtherMesh] = []
    for family, table in chains.suspects:
        listed = await run_tool("nft", "-j", "list", "table", family, table)
        if listed.status == 0:  # else it was removed meanwhile
            found += find_in_table(listed.output)
    return found


async def _find_in_legacy_tables() -> tuple[list[OtherMesh], list[str]]:
    """Chains of iptables-legacy, and a warning for each table that cannot be read: that needs NET_RAW."""
    found: list[OtherMesh] = []
    unread: list[str] = []
    for is_ipv6, names in LEGACY_TABLES.items():
        with suppress(OSError):  # a host without them
            if "nat" not in names.read_text().split():
                continue
            program = "ip6tables-legacy-save" if is_ipv6 else "iptables-legacy-save"
            try:
                saved = await run_command([program, "-t", "nat"])
                reason = saved.first_error if saved.status != 0 else None
                found += find_in_saved(saved.output.decode("utf-8", "replace"), is_ipv6=is_ipv6)
            except OSError as problem:
                reason = str(problem.strerror)
            except trio.TooSlowError:
                reason = "it does not end"
            if reason is not None:
                unread.append(
                    f"{program} cannot list the table nat ({reason}), which may have rules of another mesh: as "
                    f"root, run {program} -t nat"
                )
    return found, unread


def _redirected(found: OtherMesh) -> HostError:
    return HostError(
        Fault.OTHER_MESH,
        f"rules of {found.mesh} redirect this machine's traffic: chain {found.chain} in {found.place}",
        f"uninstall {found.mesh} here, then remove its rules: {found.removal}",
    )


def _occupied_ports() -> list[HostError]:
    """An error for each port that the proxy or the DNS stub could not get, because others listen on every address."""
    kinds = [(socket.SOCK_STREAM, port) for port in (INBOUND_PORT, OUTBOUND_PORT, ADMIN_PORT, DNS_PORT)]
    taken = [(kind, port) for kind, port in [*kinds, (socket.SOCK_DGRAM, DNS_PORT)] if _is_occupied(kind, port)]
    return [_port_error(kind, port) for kind, port in taken]


def _is_occupied(kind: socket.SocketKind, port: int) -> bool:
    for family, network, level, option in (
        (socket.AF_INET, NETWORK4, socket.IPPROTO_IP, IP_FREEBIND),
        (socket.AF_INET6, NETWORK6, socket.IPPROTO_IPV6, IPV6_FREEBIND),
    ):
        try:
            with socket.socket(family, kind | socket.SOCK_CLOEXEC) as trial:
                trial.setsockopt(level, option, 1)
                if kind is socket.SOCK_STREAM:  # a connection in TIME_WAIT is not in the way
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((str(network[SPARE]), port))
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                return True
            if problem.errno in (errno.EACCES, errno.EPERM):
                hint = "run as root, with the capability NET_BIND_SERVICE"
                raise HostError(Fault.NO_PRIVILEGE, f"listening on port {port} is not permitted", hint) from None
            # Others: this host has no IPv6, or its kernel no such option.
    return False


def _port_error(kind: socket.SocketKind, port: int) -> HostError:
    holder = next((each for each in psutil.net_connections() if _is_holder(each, kind, port)), None)
    who = "another program"
    if holder is not None and holder.pid:
        with suppress(psutil.Error):  # it has ended
            who = f"{psutil.Process(holder.pid).name()} (process {holder.pid})"
    protocol, letter = ("UDP", "u") if kind is socket.SOCK_DGRAM else ("TCP", "t")
    return HostError(
        Fault.OCCUPIED,
        f"{protocol} port {port} is taken by {who}, which listens on every address",
        f"end it, or let it listen on its own addresses only; see it: ss -ln{letter}p 'sport = :{port}'",
    )


def _is_holder(connection: Any, kind: socket.SocketKind, port: int) -> bool:
    is_everywhere = connection.laddr and connection.laddr.ip in ("0.0.0.0", "::")  # noqa: S104
    is_open = kind is socket.SOCK_DGRAM or connection.status == psutil.CONN_LISTEN
    return bool(is_everywhere and connection.laddr.port == port and connection.type == kind and is_open)


def _neighbours(proxy: Path) -> Iterator[str]:
    for process in psutil.process_iter(["name", "exe"]):
        text = NEIGHBOURS.get(process.info["name"] or "")
        if text and process.info["exe"] != str(proxy.resolve()) and is_in_our_network(process.pid):
            yield f"{text} (process {process.pid})"
