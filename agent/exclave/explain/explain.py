"""`exclave explain`: what happens to a new connection, and by which rule. It changes nothing and needs no agent.

The answer comes from the kernel's table, so it is right even if the agent is dead or the rules were changed by others.
"""

import os
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset
import trio

from exclave.control.client import NoAgent, query_agent
from exclave.errors import ExclaveError, Fault, HostError
from exclave.explain.kernel_state import (
    KernelTable,
    is_listening,
    read_addresses,
    read_kernel_table,
    read_other_nat_chains,
)
from exclave.explain.sentences import Answer, compare_with_trace, describe
from exclave.explain.trace import listen_for_events, open_attempt, open_tracing, read_events, send_first_packet
from exclave.explain.verdict import HOOKS, Connection, Outcome, TableVerdict, evaluate
from exclave.firewall.assessment import Entrance
from exclave.firewall.observer import find_blocked
from exclave.firewall.read import read_tables
from exclave.kit.formats.host_port import join_host_port, split_host_port
from exclave.kit.formats.visible_text import VisibleText, visible, with_head
from exclave.kit.host.accounts import LOOKUP_TIME, find_group, find_user, is_number
from exclave.kit.host.routes import Route, read_route
from exclave.link.layout import dns_address

STUB_TIMEOUT = 1.0  # seconds for an answer of the DNS stub

DIRECTIONS = ("outbound", "inbound")

_NAME = re.compile(
    r"(?=.{1,253}\.?$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?", re.I
)

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """A connection to explain. `host` is an address as the kernel writes it, a name, or "" for each own address."""

    direction: str
    host: str
    port: int
    is_name: bool = False

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


@dataclass(frozen=True)
class Caller:
    """The side that connects: a user and group of this machine, or an outside caller's address and interface."""

    user: str | None = None
    group: str | None = None
    source: str | None = None
    interface: str | None = None


@dataclass(frozen=True)
class Trace:
    """The kernel's treatment of our connection attempt."""

    agrees: bool
    steps: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class Explanation:
    """One answer, notes, and the trace if there was one."""

    answer: Answer
    notes: tuple[str, ...]
    trace: Trace | None = None


def ask(
    words: Sequence[str],
    user: str | None,
    group: str | None,
    source: str | None,
    interface: str | None,
    with_trace: bool,
) -> tuple[Query, Caller]:
    """Parse the command's arguments. Raises ExclaveError if they contradict each other."""
    try:
        query = parse_query(words)
        if source is not None:
            source = str(ip_address(source))
        if query.direction == "outbound" and (source or interface):
            raise ValueError("--from and --interface are about connections from outside: exclave explain inbound …")
        if query.direction == "inbound" and (user or group or with_trace):
            raise ValueError("--user, --group and --trace are about connections of programs here")
    except ValueError as problem:
        raise ExclaveError(
            Fault.USAGE, str(problem), "for instance: exclave explain 10.42.0.9:80; exclave explain inbound :8080"
        ) from None
    return query, Caller(user, group, source, interface)


def parse_query(words: Sequence[str]) -> Query:
    """Parse the destination. Raises ValueError for a wrong one. Without address, `inbound` means each own address.

    [outbound] ADDRESS:PORT     a local program connects there; also [ADDRESS]:PORT and NAME:PORT
    inbound [ADDRESS]:PORT      a connection from outside to this machine or through it
    """
    direction, *rest = words if words and words[0] in DIRECTIONS else ("outbound", *words)
    if len(rest) != 1:
        raise ValueError(f"one destination was expected, such as 10.42.0.9:80, found {' '.join(rest) or 'none'}")
    host, port = split_host_port(rest[0])
    if not host:
        if direction == "outbound":
            raise ValueError(f"an address or a name was expected before the port, found {rest[0]!r}")
        return Query(direction, "", port)
    try:
        if "%" in host:
            raise ValueError
        return Query(direction, str(ip_address(host)), port)
    except ValueError:
        if _NAME.fullmatch(host) is None or ":" in host or host.replace(".", "").isdecimal():
            raise ValueError(f"an address or a name was expected before the port, found {rest[0]!r}") from None
    if direction == "inbound":
        raise ValueError(f"an address of this machine was expected, found {host}")
    return Query(direction, host, port, is_name=True)


async def explain(query: Query, caller: Caller, runtime: Path, *, with_trace: bool) -> list[Explanation]:
    """One answer for each address. Raises HostError, and ExclaveError for an unknown name or user."""
    uid, gid = await _account(caller)
    addresses, found_by = await _addresses(query)
    found = []
    for address in addresses:
        found.append(await _explain(query, address, caller, uid, gid, with_trace=with_trace))
    around = (*found_by, *await _read_agent_notes(runtime))
    merged: dict[Any, Explanation] = {}
    for each in found:  # own addresses with equal results share one answer
        key = each.answer.sentence if query.host else (each.answer.outcome, each.answer.rule, each.notes)
        merged.setdefault(key, Explanation(each.answer, (*each.notes, *around), each.trace))
    return list(merged.values())


async def _explain(query: Query, address: str, caller: Caller, uid: int, gid: int, *, with_trace: bool) -> Explanation:
    kernel_table = await read_kernel_table()
    connection, notes = await _connection(query, address, caller, uid, gid)
    verdict = evaluate(kernel_table.table, connection) if kernel_table else TableVerdict(Outcome.PASSES)
    table, texts = (kernel_table.table, kernel_table.texts) if kernel_table else (None, {})
    answer = describe(query.direction, connection, table, texts, verdict)
    trace = await _trace(kernel_table, connection, verdict) if with_trace else None
    if verdict.target is not None and not await is_listening(*verdict.target):
        notes.append(f"nothing listens at {join_host_port(*verdict.target)} now, so it would be refused")
    if query.direction == "inbound" and verdict.outcome is Outcome.PROXY:
        callers = (caller.source,) if caller.source else ()
        entrance = Entrance({address: (caller.interface or "",)}, (query.port,), callers)
        if (blocked := await find_blocked(await read_tables(), entrance)) is not None:
            notes.append(f"the host's own firewall keeps it out: {blocked.text}")
    if verdict.outcome is Outcome.PASSES and (others := await read_other_nat_chains(connection.hook)):
        notes.append(f"tables of others come after ours and may redirect it: {', '.join(others)}")
    return Explanation(answer, (*answer.notes, *notes), trace)


async def _connection(query: Query, address: str, caller: Caller, uid: int, gid: int) -> tuple[Connection, list[str]]:
    """The first packet at its hook, with facts from the routes."""
    destination, hook = ip_address(address), HOOKS[query.direction]
    if query.direction == "outbound":
        route = await read_route(address, "uid", str(uid))
        notes = [] if isinstance(route, Route) else [f"it would not leave this machine: {route}"]
        interface, source = (route.interface, route.source) if isinstance(route, Route) else (None, None)
        origin = ip_address(source) if source else None
        return Connection(hook, destination, query.port, origin, uid, gid, interface), notes
    route = await read_route(address)
    origin = ip_address(caller.source) if caller.source else None
    if isinstance(route, str):
        return Connection(hook, destination, query.port, origin, interface=caller.interface), [
            f"this machine has no route there: {route}"
        ]
    notes = [] if route.kind == "local" else [f"{address} is no address of this machine; it could only go through it"]
    return (
        Connection(
            hook,
            destination,
            query.port,
            origin,
            interface=caller.interface,
            leaves_by=route.interface,
            kind=route.kind,
        ),
        notes,
    )


def explained_lines(explanations: list[Explanation]) -> list[VisibleText]:
    """The lines that the command prints."""
    lines: list[VisibleText] = []
    for each in explanations:
        answer = each.answer
        lines.append(visible(answer.sentence))
        if answer.rule is not None:
            lines.append(with_head("  rule:   ", answer.rule))
        if answer.set_element is not None:
            lines.append(with_head("  set:    ", f"{answer.set_element[0]} holds {answer.set_element[1]}"))
        if each.trace is not None:
            lines.append(with_head("  kernel: ", _traced(each.trace)))
            lines += [with_head(" " * 10, step) for step in each.trace.steps]
        lines += [with_head("  note:   ", note) for note in each.notes]
    return lines


def _traced(trace: Trace) -> str:
    if trace.problem:
        return trace.problem
    return (
        "agrees" if trace.agrees else "does NOT agree: a bug of exclave's, or rules that changed meanwhile; ask again"
    )


def explained_object(explanations: list[Explanation]) -> dict[str, Any]:
    """The object that the command prints with `--json`."""
    return {
        "connections": [
            {
                "to": each.answer.subject,
                "outcome": each.answer.outcome.value,
                "sentence": each.answer.sentence,
                "instance": each.answer.instance,
                "target": each.answer.target,
                "rule": each.answer.rule,
                "set": dict([each.answer.set_element]) if each.answer.set_element else None,
                "notes": list(each.notes),
                "trace": None
                if each.trace is None
                else {
                    "agrees": each.trace.agrees,
                    "steps": list(each.trace.steps),
                    "problem": each.trace.problem or None,
                },
            }
            for each in explanations
        ]
    }


async def _trace(kernel_table: KernelTable | None, connection: Connection, verdict: TableVerdict) -> Trace:
    if kernel_table is None:
        return Trace(True, (), "there are no rules to compare with")
    try:
        with open_attempt(connection.destination.version, connection.uid, connection.gid) as attempt:
            async with open_tracing(attempt.getsockname()[1]):
                with listen_for_events() as channel:
                    problem = send_first_packet(attempt, str(connection.destination), connection.port)
                    events = read_events(channel)
    except OSError as error:
        return Trace(False, (), f"no connection could be tried: {error.strerror}")
    if problem and not events:
        return Trace(False, (), f"no packet left: {problem}")
    agrees, steps = compare_with_trace(verdict, connection, kernel_table.table, events)
    return Trace(agrees, tuple(steps))


async def _account(caller: Caller) -> tuple[int, int]:
    """Numbers of the user and group; our own by default. Raises ExclaveError."""
    uid, gid = os.geteuid(), os.getegid()
    if caller.user is not None:
        user = await _resolve(find_user, caller.user)
        if user is not None:
            uid, gid = user.uid, user.gid
        elif is_number(caller.user):
            uid = int(caller.user)
        else:
            raise _no_account(caller.user)
    if caller.group is not None:
        group = int(caller.group) if is_number(caller.group) else await _resolve(find_group, caller.group)
        if group is None:
            raise _no_account(caller.group)
        gid = group
    return uid, gid


async def _resolve(find: Callable[[str], Awaitable[T]], name: str) -> T:
    try:
        return await find(name)
    except trio.TooSlowError:
        raise ExclaveError(
            Fault.USAGE,
            f"the name service did not answer within {LOOKUP_TIME:.0f} s who {name} is",
            f"see why: getent passwd {name}; getent group {name}",
        ) from None


def _no_account(name: str) -> ExclaveError:
    return ExclaveError(
        Fault.USAGE, f"there is no user or group {name} on this machine", "name one of this machine, or its number"
    )


async def _addresses(query: Query) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The addresses of the query, and a note how they were found. Raises ExclaveError, HostError."""
    if not query.host:
        return read_addresses(), ()
    if not query.is_name:
        return (query.host,), ()
    try:
        answers = await trio.socket.getaddrinfo(query.host, query.port, type=socket.SOCK_STREAM)
        found = tuple(dict.fromkeys(str(each[4][0]).partition("%")[0] for each in answers))
        return found, (f"{query.host} is {', '.join(found)}, as this machine resolves it",)
    except OSError as problem:
        found = await trio.to_thread.run_sync(_ask_stub, query.host)
        if found:
            listed = ", ".join(found)
            note = f"{query.host} is {listed}, as exclave resolves it for its proxies; this machine does not resolve it"
            return found, (note,)
        raise ExclaveError(
            Fault.USAGE, f"{query.host} is not resolved: {problem.strerror}", "ask about its address instead"
        ) from None


def _ask_stub(name: str) -> tuple[str, ...]:
    """The addresses that the agent's DNS stub returns; none if no agent runs."""
    found: list[str] = []
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        try:
            response = dns.query.udp(dns.message.make_query(name, kind), dns_address(), timeout=STUB_TIMEOUT)
        except (OSError, dns.exception.DNSException):
            continue
        found += [str(record) for each in response.answer if each.rdtype == kind for record in each]
    return tuple(found)


async def _read_agent_notes(runtime: Path) -> tuple[str, ...]:
    """A note on the agent, if it has problems or does not run."""
    try:
        status = await trio.to_thread.run_sync(partial(query_agent, runtime, "status", 5.0))
    except (NoAgent, HostError):
        return ("no agent runs on this machine; the rules in the kernel count",)
    redirect = status.get("redirect") or {}
    if redirect.get("installed") and not redirect.get("matches"):
        return ("the agent wants other rules than these and is about to change them",)
    return ()
