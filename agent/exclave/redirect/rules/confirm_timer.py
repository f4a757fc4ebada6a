"""Rules that stop by themselves: a set with one element, which the kernel forgets in time. Pure.

Rules: each chain that captures begins by asking the set, so one element decides for all of them; it has a timeout, and
nobody need be alive for it to end. What is being carried by then goes on: NAT has decided at its first packet, and
the chains stand, as `holding` asks. The element is added in the transaction that makes the table, so rules are never
there without their end; what is left of the time when a table is made anew is never more than what was left before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exclave.link.layout import TABLE

ARMED = "armed"

DECLARATION = (f"set {ARMED} {{", "    type inet_proto", "    flags timeout", "}")

_WHY = "rolled back: nobody confirmed the rules in time, so nothing is captured"
_GATE = f'    meta l4proto != @{ARMED} accept comment "{_WHY}"'
_HOOK = "    type nat hook "


def with_timer(chain: Sequence[str]) -> list[str]:
    """A chain that captures only while the rules are armed; other blocks as they are."""
    if len(chain) > 1 and chain[1].startswith(_HOOK):
        return [*chain[:2], _GATE, *chain[2:]]
    return list(chain)


def render_arming(left: float) -> str:
    """What arms the table for `left` more seconds, for the end of the transaction that makes it; nothing if 0."""
    if left <= 0:
        return ""
    return f"add element inet {TABLE} {ARMED} {{ tcp timeout {max(1, int(left * 1000))}ms }}\n"


def render_confirmed() -> str:
    """The transaction that makes rules which are armed stay so."""
    return f"flush set inet {TABLE} {ARMED}\nadd element inet {TABLE} {ARMED} {{ tcp }}\n"


def is_armed_set(item: Mapping[str, Any]) -> bool:
    """Whether an item of nft's listing is the set."""
    return isinstance(item.get("set"), dict) and item["set"].get("name") == ARMED


def time_left(items: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds for which a listed table captures; 0: no longer; None: it has no such set, or was told to stay so."""
    for item in items:
        if is_armed_set(item):
            return element_time(item["set"].get("elem", []))
    return None


def element_time(elements: Sequence[Any]) -> float | None:
    """The same, of what the set holds.

    nft gives whole seconds, rounded down; an element with less than one is there all the same.
    """
    if not elements:
        return 0.0
    timed = elements[0].get("elem") if isinstance(elements[0], dict) else None
    return None if timed is None or "expires" not in timed else max(0.1, float(timed["expires"]))
