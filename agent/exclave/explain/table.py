"""Parses our table as nft lists it: chains, rules and sets as values. Pure. `verdict` interprets them.

Source of the format: libnftables-json(5).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exclave.kit.formats.nft_json import parse_items
from exclave.link.layout import TABLE

TRACE_TABLE = "exclave-trace"  # the table with the tracing rule


@dataclass(frozen=True)
class Rule:
    """One rule, with its statements as in nft's JSON."""

    chain: str
    handle: int
    statements: tuple[Mapping[str, Any], ...]
    comment: str = ""


@dataclass(frozen=True)
class Chain:
    """One chain at a hook; `kind` is filter or nat, `policy` accept or drop."""

    name: str
    kind: str
    hook: str
    priority: int
    policy: str
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Table:
    """The table. `handle` changes whenever the table is created again; the kernel ignores it if `is_dormant`."""

    handle: int
    chains: tuple[Chain, ...] = ()
    sets: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    is_dormant: bool = False


def parse_table(listing: str) -> Table | None:
    """Parse `nft -j list table inet exclave`; None without the table. Raises ValueError."""
    items = parse_items(listing)
    try:
        tables = [item["table"] for item in items if item.get("table", {}).get("name") == TABLE]
        if not tables:
            return None
        rules = [_rule(item["rule"]) for item in items if "rule" in item]
        chains = [_chain(item["chain"], rules) for item in items if item.get("chain", {}).get("hook")]
        sets = {item["set"]["name"]: tuple(item["set"].get("elem", ())) for item in items if "set" in item}
        # The flag dormant is not read here, since nft 1.0.6 prints it wrongly in JSON.
        return Table(tables[0]["handle"], tuple(chains), sets)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("nft -j list table: another form of its JSON was expected") from None


def _rule(item: Mapping[str, Any]) -> Rule:
    return Rule(item["chain"], item["handle"], tuple(item["expr"]), item.get("comment", ""))


def _chain(item: Mapping[str, Any], rules: list[Rule]) -> Chain:
    own = tuple(rule for rule in rules if rule.chain == item["name"])
    return Chain(item["name"], item["type"], item["hook"], item["prio"], item.get("policy", "accept"), own)


_HANDLE = re.compile(r"^(?P<text>.*\S)\s+# handle (?P<handle>\d+)$")


@dataclass(frozen=True)
class RuleTexts:
    """The table as nft's text: its handle, the text of each rule by handle, and whether it is dormant."""

    handle: int
    rules: Mapping[int, str]
    is_dormant: bool = False


def parse_rule_texts(listing: str) -> RuleTexts:
    """Parse `nft -a list table inet exclave`. Raises ValueError."""
    handle, is_dormant = 0, False
    rules: dict[int, str] = {}
    for line in map(str.strip, listing.splitlines()):
        is_dormant = is_dormant or line == "flags dormant"
        found = _HANDLE.match(line)
        if found is not None and found["text"].startswith("table "):
            handle = int(found["handle"])
        elif found is not None and not found["text"].endswith("{"):  # a chain or set opens a block
            rules[int(found["handle"])] = found["text"]
    if not handle:
        raise ValueError("nft -a list table: a listing with handles was expected")
    return RuleTexts(handle, rules, is_dormant)
