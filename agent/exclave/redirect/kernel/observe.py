"""What the kernel says of our table: `nft -j list table inet exclave`, read. Pure.

Rules: which instance is active is read here, never remembered. The digest tells which rules a table was made as, the
fingerprint (of everything listed but handles and counters) whether anybody has changed it since.
Until 1.1.0 nft reads freed memory where a table has a flag (its table_flags_json), and its JSON may be cut off there.
Our table has none, so a listing that is cut off is one of a table that others have changed.
Source of the format: libnftables-json(5).
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from exclave.link.layout import INSTANCES, TABLE, Instance
from exclave.redirect.rules.confirm_timer import is_armed_set, time_left
from exclave.redirect.rules.drain_ruleset import HOLDING


@dataclass(frozen=True)
class Observed:
    """Our table as it stands. `inbound` and `outbound` count the connections that it has handed to the proxy.

    `is_holding`: it captures nothing new, and keeps what lives. `armed_left`: for how many seconds it still captures,
    if it is not confirmed; 0: it captures nothing any more.
    """

    installed: bool = False
    instance: Instance | None = None
    digest: str = ""
    fingerprint: str = ""
    inbound: int = 0
    outbound: int = 0
    dropped: int = 0
    is_holding: bool = False
    armed_left: float | None = None


NOTHING = Observed()

_BEGINNING = '{"nftables": [{"metainfo": '
_MOVING = ("handle", "packets", "bytes", "index")


def observe(listing: str) -> Observed:
    """Read a listing; an empty one means that there is no table. Raises ValueError if it is not nft's JSON."""
    if not listing.strip():
        return NOTHING
    try:
        items = json.loads(listing)["nftables"]
    except (ValueError, KeyError, TypeError):
        if listing.startswith(_BEGINNING):
            return Observed(installed=True, fingerprint="cut off")
        raise ValueError("nft -j list table: its JSON was expected") from None
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
        fingerprint=hashlib.sha256(json.dumps(_steady(ours), sort_keys=True).encode()).hexdigest(),
        inbound=_count(rules, "inbound"),
        outbound=_count(rules, "outbound"),
        dropped=_count(rules, "foreign"),
        is_holding=[HOLDING] in marks,
        armed_left=time_left(ours),
    )


def _table_of(item: dict[str, Any]) -> str:
    (content,) = item.values()
    return str(content.get("table") or content.get("name") or "")


def _steady(tree: Any) -> Any:
    """A listing without what moves by itself."""
    if isinstance(tree, dict) and is_armed_set(tree):
        return {"set": {key: value for key, value in tree["set"].items() if key not in (*_MOVING, "elem")}}
    if isinstance(tree, dict):
        return {key: _steady(value) for key, value in tree.items() if key not in _MOVING}
    return [_steady(item) for item in tree] if isinstance(tree, list) else tree


def _count(rules: list[dict[str, Any]], chain: str) -> int:
    """Packets counted in a chain; in a nat chain each is the first of a connection."""
    return sum(
        statement["counter"]["packets"]
        for rule in rules
        if rule["chain"] == chain
        for statement in rule["expr"]
        if isinstance(statement.get("counter"), dict)
    )
