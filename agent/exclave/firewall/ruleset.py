"""Parses tables of others as nft lists them: chains, rules, sets and maps as values. Pure. `evaluate` interprets them.

nft prints what iptables-nft adds only by its name (`xt`). `exclave.firewall.iptables` reads such rules from the output
of iptables-nft-save. Source of the format: libnftables-json(5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from exclave.firewall.iptables import SavedRule
from exclave.kit.formats.nft_json import parse_items
from exclave.link.layout import OUR_TABLES

HOOKS = (
    "ingress",
    "prerouting",
    "input",
    "output",
    "postrouting",
)  # where a packet for this machine, or its answer, is

_FAMILIES = ("inet", "ip", "ip6", "netdev")

Statement = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule. `saved`: its line of iptables-nft-save, "" for a rule of nft."""

    chain: str
    handle: int
    statements: tuple[Statement, ...]
    saved: str = ""


@dataclass(frozen=True)
class Chain:
    """One chain. `hook` is "" for a chain that others jump to; `device`: that of a chain at the hook ingress."""

    name: str
    rules: tuple[Rule, ...] = ()
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    device: str = ""


@dataclass(frozen=True)
class Table:
    """One table. `sets` has the elements of sets and maps by name.

    `has_flags`: it may be dormant, which nft 1.0.6 prints wrongly in JSON. `is_unread`: nft could not print it.
    """

    family: str
    name: str
    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    has_flags: bool = False
    is_dormant: bool = False
    is_unread: bool = False

    @property
    def has_iptables_rules(self) -> bool:
        """True if nft does not print all of a rule, since iptables-nft made it."""
        return any(
            "xt" in statement for chain in self.chains.values() for rule in chain.rules for statement in rule.statements
        )


def parse_foreign_tables(listing: bytes) -> tuple[tuple[str, str], ...]:
    """Family and name of the tables in `nft -j list chains` that packets for this machine meet. Raises ValueError."""
    try:
        chains = [item["chain"] for item in parse_items(listing) if "chain" in item]
        found = [
            (each["family"], each["table"])
            for each in chains
            if each.get("hook") in HOOKS and each["family"] in _FAMILIES and each["table"] not in OUR_TABLES
        ]
    except (AttributeError, KeyError, TypeError):
        raise ValueError("nft -j list chains: another form of its JSON was expected") from None
    return tuple(dict.fromkeys(found))


def parse_table(listing: bytes) -> Table:
    """Parse `nft -j list table FAMILY NAME`. Raises ValueError."""
    items = parse_items(listing)
    try:
        (head,) = [item["table"] for item in items if "table" in item]
        rules = [_rule(item["rule"]) for item in items if "rule" in item]
        chains = {item["chain"]["name"]: _chain(item["chain"], rules) for item in items if "chain" in item}
        sets = {
            item[kind]["name"]: tuple(item[kind].get("elem", ()))
            for item in items
            for kind in ("set", "map")
            if kind in item
        }
        return Table(head["family"], head["name"], chains, sets, has_flags="flags" in head)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("nft -j list table: another form of its JSON was expected") from None


def _rule(item: Mapping[str, Any]) -> Rule:
    statements = tuple(item.get("expr", ()))
    if not all(isinstance(statement, dict) and statement for statement in statements):
        raise ValueError
    return Rule(str(item["chain"]), int(item["handle"]), statements)


def _chain(item: Mapping[str, Any], rules: list[Rule]) -> Chain:
    own = tuple(rule for rule in rules if rule.chain == item["name"])
    device = item.get("dev", "")
    return Chain(
        str(item["name"]),
        own,
        item.get("type", ""),
        item.get("hook", ""),
        int(item.get("prio", 0)),
        item.get("policy", "accept"),
        " ".join(device) if isinstance(device, list) else str(device),
    )


def with_saved(table: Table, saved: Mapping[str, Sequence[SavedRule]]) -> Table:
    """A table whose rules of iptables are those that iptables-nft-save printed, by chain.

    Rules are compared by position. A chain with another number of rules stays as nft has printed it.
    """
    chains = {}
    for name, chain in table.chains.items():
        lines, rules = saved.get(name, ()), chain.rules
        if len(lines) == len(rules):
            rules = tuple(
                replace(rule, statements=line.statements, saved=line.text)
                if any("xt" in statement for statement in rule.statements)
                else replace(rule, saved=line.text)
                for rule, line in zip(rules, lines, strict=True)
            )
        chains[name] = replace(chain, rules=rules)
    return replace(table, chains=chains)
