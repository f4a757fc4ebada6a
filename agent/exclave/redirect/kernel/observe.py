"""Parses `nft -j list table inet exclave`: which rules are in the kernel, and whether others changed them. Pure.

The digest names the rules that the table was made with. The fingerprint covers all of the listing except handles and
counters, so it shows any later change. Source of the format: libnftables-json(5).
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from exclave.kit.formats.nft_json import parse_items
from exclave.link.layout import INSTANCES, TABLE, Instance
from exclave.redirect.rules.confirm_timer import is_armed_set, time_left
from exclave.redirect.rules.ruleset import DRAIN_MARK


@dataclass(frozen=True)
class Observed:
    """Our table. `inbound`, `outbound`: connections redirected to the proxy. `is_draining`: it captures nothing new.

    `armed_left`: seconds for which unconfirmed rules still capture (0: no longer); None if they are confirmed.
    """

    installed: bool = False
    instance: Instance | None = None
    digest: str = ""
    fingerprint: str = ""
    inbound: int = 0
    outbound: int = 0
    dropped: int = 0
    is_draining: bool = False
    armed_left: float | None = None


NOTHING = Observed()

_BEGINNING = '{"nftables": [{"metainfo": '
_VARIABLE = ("handle", "packets", "bytes", "index")


def parse_listing(listing: str) -> Observed:
    """Parse a listing; an empty one means no table. Raises ValueError if it is not nft's JSON.

    Before 1.1.0, nft may cut off JSON at a table's flag (table_flags_json). Our table has none, so others changed it.
    """
    if not listing.strip():
        return NOTHING
    try:
        items = parse_items(listing)
    except ValueError:
        if listing.startswith(_BEGINNING):
            return Observed(installed=True, fingerprint="cut off")
        raise
    try:
        return _observe(items)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise ValueError("nft -j list table: another form of its JSON was expected") from None


def _observe(items: list[dict[str, Any]]) -> Observed:
    ours = [item for item in items if _table_of(item) == TABLE]
    if not ours:
        return NOTHING
    rules = [item["rule"] for item in ours if "rule" in item]
    marks = [rule["comment"].split() for rule in rules if rule["chain"] == "foreign" and "comment" in rule]
    mark = marks[0] if marks and len(marks[0]) == 2 else ["", ""]
    return Observed(
        installed=True,
        instance=next((instance for instance in INSTANCES if instance == mark[0]), None),
        digest=mark[1],
        fingerprint=hashlib.sha256(json.dumps(_without_counters(ours), sort_keys=True).encode()).hexdigest(),
        inbound=_count(rules, "inbound"),
        outbound=_count(rules, "outbound"),
        dropped=_count(rules, "foreign"),
        is_draining=[DRAIN_MARK] in marks,
        armed_left=time_left(ours),
    )


def _table_of(item: dict[str, Any]) -> str:
    (content,) = item.values()
    return str(content.get("table") or content.get("name") or "")


def _without_counters(tree: Any) -> Any:
    """A listing without the values that change by themselves."""
    if isinstance(tree, dict) and is_armed_set(tree):
        return {"set": {key: value for key, value in tree["set"].items() if key not in (*_VARIABLE, "elem")}}
    if isinstance(tree, dict):
        return {key: _without_counters(value) for key, value in tree.items() if key not in _VARIABLE}
    return [_without_counters(item) for item in tree] if isinstance(tree, list) else tree


def _count(rules: list[dict[str, Any]], chain: str) -> int:
    """Packets counted in a chain; in a nat chain, each is the first of a connection."""
    return sum(
        statement["counter"]["packets"]
        for rule in rules
        if rule["chain"] == chain
        for statement in rule["expr"]
        if isinstance(statement.get("counter"), dict)
    )


def find_error(answer: str) -> str | None:
    """The first error that nft reports; None if there is none so far."""
    errors = [line.strip() for line in answer.splitlines(keepends=True) if "Error" in line and line.endswith("\n")]
    return errors[0] if errors else None
