"""Evaluates our table for a new connection, as the kernel does. Pure.

If a rule needs an unknown fact, both results are evaluated; if they differ, the verdict names the missing facts. A rule
that we do not understand, added by others, ends the evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from exclave.explain.table import Chain, Rule, Table

Address = IPv4Address | IPv6Address

HOOKS = {"outbound": "output", "inbound": "prerouting"}  # the first hook of each direction


class Outcome(Enum):
    """The effect of our table on a connection."""

    PROXY = "proxy"
    PASSES = "passes"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Connection:
    """The first packet at one hook: `output` for local programs, `prerouting` from outside. None: not known."""

    hook: str
    destination: Address
    port: int
    source: Address | None = None
    uid: int | None = None
    gid: int | None = None
    interface: str | None = None  # the one that it leaves or arrives by
    leaves_by: str | None = None  # the interface of the route to the destination
    kind: str | None = None  # of this route: unicast, local, broadcast, multicast


@dataclass(frozen=True)
class RuleHit:
    """The result of one chain, by a rule or by its policy (`rule` None). `because`: a set and its matching element."""

    chain: str
    rule: Rule | None
    verdict: str
    because: tuple[str, str] | None = None


@dataclass(frozen=True)
class TableVerdict:
    """The result. `target`: where a captured connection goes. `missing_facts`: the unknown facts that decide it."""

    outcome: Outcome
    steps: tuple[RuleHit, ...] = ()
    target: tuple[str, int] | None = None
    missing_facts: tuple[str, ...] = ()
    unknown_rule: Rule | None = None


class _UnknownRule(Exception):
    """A rule that we do not understand."""


@dataclass(frozen=True)
class _Match:
    """True if the conditions of a rule hold; None: this depends on `missing_facts`."""

    holds: bool | None
    missing_facts: tuple[str, ...] = ()
    because: tuple[str, str] | None = None


def evaluate(table: Table, connection: Connection) -> TableVerdict:
    """Evaluate the table for a connection."""
    if table.is_dormant:
        return TableVerdict(Outcome.PASSES)
    chains = sorted((chain for chain in table.chains if chain.hook == connection.hook), key=lambda one: one.priority)
    return _walk(table, connection, chains, 0, 0, ())


def _walk(
    table: Table, connection: Connection, chains: Sequence[Chain], at: int, rule_at: int, steps: tuple[RuleHit, ...]
) -> TableVerdict:
    """Evaluate from a rule of a chain to the end of the hook."""
    if at == len(chains):
        return TableVerdict(Outcome.PASSES, steps)
    chain = chains[at]
    for number in range(rule_at, len(chain.rules)):
        rule = chain.rules[number]
        try:
            match = _match(table, connection, rule)
            verdict, target = _does(rule)
        except _UnknownRule:
            return TableVerdict(Outcome.UNKNOWN, steps, unknown_rule=rule)
        if match.holds is False or not verdict:
            continue
        step = RuleHit(chain.name, rule, verdict, match.because)
        matched = _end(table, connection, chains, at, (*steps, step), target)
        if match.holds:
            return matched
        skipped = _walk(table, connection, chains, at, number + 1, steps)
        if (matched.outcome, matched.target) == (skipped.outcome, skipped.target) != (Outcome.UNKNOWN, None):
            return skipped
        missing_facts = tuple(dict.fromkeys((*match.missing_facts, *matched.missing_facts, *skipped.missing_facts)))
        return TableVerdict(
            Outcome.UNKNOWN,
            (*steps, step),
            missing_facts=missing_facts,
            unknown_rule=matched.unknown_rule or skipped.unknown_rule,
        )
    return _end(table, connection, chains, at, (*steps, RuleHit(chain.name, None, chain.policy)), None)


def _end(
    table: Table,
    connection: Connection,
    chains: Sequence[Chain],
    at: int,
    steps: tuple[RuleHit, ...],
    target: tuple[str, int] | None,
) -> TableVerdict:
    """Continue after the verdict of a chain."""
    if steps[-1].verdict == "drop":
        return TableVerdict(Outcome.DROPPED, steps)
    if target is None:
        return _walk(table, connection, chains, at + 1, 0, steps)
    # Accept ends a chain, not the hook. NAT decides once. Source: nft(8), "VERDICT STATEMENTS", "NAT STATEMENTS".
    later = [chain for chain in chains[at + 1 :] if chain.kind != "nat"]
    rest = _walk(table, replace(connection, destination=ip_address(target[0]), port=target[1]), later, 0, 0, steps)
    return replace(rest, outcome=Outcome.PROXY, target=target) if rest.outcome is Outcome.PASSES else rest


def _does(rule: Rule) -> tuple[str, tuple[str, int] | None]:
    """The verdict of a rule, "" if it has none, and its dnat target. Raises _UnknownRule."""
    for statement in rule.statements:
        (kind, value), *_ = statement.items()
        if kind in ("match", "counter", "log"):
            continue
        if kind in ("accept", "drop"):
            return kind, None
        if kind == "dnat" and isinstance(value.get("addr"), str) and isinstance(value.get("port"), int):
            return "accept", (value["addr"], value["port"])
        raise _UnknownRule
    return "", None


def is_translating(table: Table, version: int) -> bool:
    """True if any rule translates connections of an address family."""
    word = {4: "ip", 6: "ip6"}[version]
    statements = (statement for chain in table.chains for rule in chain.rules for statement in rule.statements)
    return any(statement["dnat"].get("family", word) == word for statement in statements if "dnat" in statement)


# Conditions.


def _match(table: Table, connection: Connection, rule: Rule) -> _Match:
    """Whether all of a rule's conditions hold. Raises _UnknownRule."""
    missing_facts: list[str] = []
    because: tuple[str, str] | None = None
    for statement in rule.statements:
        if "match" not in statement:
            continue
        condition = statement["match"]
        name, value = _value_of(condition["left"], connection)
        if value is _OTHER_FAMILY:
            return _Match(False)
        if value is None:
            missing_facts.append(name)
            continue
        element = _find(value, condition["right"], table)
        if (element is not None) != (condition["op"] in ("==", "in")):
            return _Match(False)
        if element is not None and _set_name(condition["right"]):
            because = (_set_name(condition["right"]), element_text(element))
    return _Match(None, tuple(missing_facts), because) if missing_facts else _Match(True, because=because)


_OTHER_FAMILY = object()

_FLAGS = ["fin", "syn", "rst", "ack"]


def _value_of(left: Mapping[str, Any], connection: Connection) -> tuple[str, Any]:
    """The name and value of the fact that a condition needs; value None: not known. Raises _UnknownRule."""
    is_4 = connection.destination.version == 4
    if "meta" in left:
        facts: dict[str, tuple[str, Any]] = {
            "l4proto": ("", "tcp"),
            "nfproto": ("", "ipv4" if is_4 else "ipv6"),
            "skuid": ("the user", connection.uid),
            "skgid": ("the group", connection.gid),
        }
        if connection.hook == "output":
            facts["oifname"] = ("the interface", connection.interface)
        else:
            facts["iifname"] = ("the interface", connection.interface)
        return _find_fact(facts, left["meta"]["key"])
    if "payload" in left:
        protocol, place = left["payload"].get("protocol"), left["payload"].get("field")
        if protocol in ("ip", "ip6") and (protocol == "ip") != is_4:
            return "", _OTHER_FAMILY
        word = "ip" if is_4 else "ip6"
        return _find_fact(
            {
                f"{word} daddr": ("", connection.destination),
                f"{word} saddr": ("the caller's address", connection.source),
                "tcp dport": ("", connection.port),
            },
            f"{protocol} {place}",
        )
    if left == {"ct": {"key": "state"}}:
        return "", "new"  # the state of a first packet, if the kernel can track it
    if "fib" in left and left["fib"].get("flags") in (["daddr"], "daddr"):
        kinds = {"type": ("the route", connection.kind), "oifname": ("the route", connection.leaves_by)}
        return _find_fact(kinds, left["fib"].get("result"))
    if "&" in left:
        what, mask = left["&"]
        wanted = mask["|"] if isinstance(mask, dict) and "|" in mask else mask
        if what == {"payload": {"protocol": "tcp", "field": "flags"}} and sorted(wanted) == sorted(_FLAGS):
            return "", "syn"  # of these flags, a first packet has only this one
    raise _UnknownRule


def _find_fact(facts: Mapping[str, tuple[str, Any]], key: Any) -> tuple[str, Any]:
    if key not in facts:
        raise _UnknownRule
    return facts[key]


def _set_name(right: Any) -> str:
    return right if isinstance(right, str) and right.startswith("@") else ""


def _find(value: Any, right: Any, table: Table) -> Any | None:
    """The element that contains a value; None if there is none. Raises _UnknownRule."""
    name = _set_name(right)
    if name:
        if name[1:] not in table.sets:
            raise _UnknownRule
        elements: Sequence[Any] = table.sets[name[1:]]
    elif isinstance(right, dict) and "set" in right:
        elements = right["set"] if isinstance(right["set"], list) else [right["set"]]
    else:
        elements = [right]
    return next((element for element in elements if _holds(element, value)), None)


def _holds(element: Any, value: Any) -> bool:
    try:
        if isinstance(element, dict) and "elem" in element:
            return _holds(element["elem"]["val"], value)
        if isinstance(element, dict) and "prefix" in element:
            network = ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
            return bool(network.version == value.version and value in network)
        if isinstance(element, dict) and "range" in element:
            first, last = element["range"]
            if isinstance(value, int):
                return bool(first <= value <= last)
            return bool(ip_address(first) <= value <= ip_address(last))
        if isinstance(value, IPv4Address | IPv6Address):
            return ip_address(element) == value
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _UnknownRule from None
    if isinstance(element, (str, int)) and isinstance(element, type(value)):
        return bool(element == value)
    raise _UnknownRule


def element_text(element: Any) -> str:
    """An element of a set as nft writes it."""
    if isinstance(element, dict) and "prefix" in element:
        return f"{element['prefix']['addr']}/{element['prefix']['len']}"
    if isinstance(element, dict) and "range" in element:
        return "-".join(map(str, element["range"]))
    return str(element)
