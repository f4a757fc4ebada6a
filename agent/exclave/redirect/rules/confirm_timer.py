"""The confirm timer: unconfirmed rules stop capturing by themselves, by a set element with a timeout. Pure.

Each capturing chain first checks the set. The kernel removes the element in time, also without an agent. A table that
is made again gets only the time that was left. Open connections continue.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exclave.link.layout import TABLE

ARMED = "armed"
CLOSED = "closed"  # the chain that drops what the rules do not capture; it is of no use without them

DECLARATION = (f"set {ARMED} {{", "    type inet_proto", "    flags timeout", "}")

_WHY = "rolled back: nobody confirmed the rules in time, so nothing is captured"
_GATE = f'    meta l4proto != @{ARMED} accept comment "{_WHY}"'
_HOOK = "    type nat hook "


def with_timer(chain: Sequence[str]) -> list[str]:
    """A chain that captures or closes with the check of the timer in front; other blocks unchanged."""
    if len(chain) > 1 and (chain[1].startswith(_HOOK) or chain[0] == f"chain {CLOSED} {{"):
        return [*chain[:2], _GATE, *chain[2:]]
    return list(chain)


def render_arming(left: float) -> str:
    """Text that starts the timer with `left` seconds, in the table's own transaction; "" if no time is left."""
    if left <= 0:
        return ""
    return f"add element inet {TABLE} {ARMED} {{ tcp timeout {max(1, int(left * 1000))}ms }}\n"


def render_confirmed() -> str:
    """The transaction that confirms the rules: an element without a timeout."""
    return f"flush set inet {TABLE} {ARMED}\nadd element inet {TABLE} {ARMED} {{ tcp }}\n"


def is_armed_set(item: Mapping[str, Any]) -> bool:
    """True if an item of nft's listing is the set."""
    return isinstance(item.get("set"), dict) and item["set"].get("name") == ARMED


def time_left(items: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds for which a listed table captures; 0: no longer; None: it has no timer, or is confirmed."""
    for item in items:
        if is_armed_set(item):
            return element_time(item["set"].get("elem", []))
    return None


def element_time(elements: Sequence[Any]) -> float | None:
    """The same, from the set's elements. nft rounds seconds down, so 0 in a listing is less than one second."""
    if not elements:
        return 0.0
    timed = elements[0].get("elem") if isinstance(elements[0], dict) else None
    return None if timed is None or "expires" not in timed else max(0.1, float(timed["expires"]))
