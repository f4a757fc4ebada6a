"""Evaluates the conditions of foreign rules for a packet of which not all is known. Pure.

Three results: True, False, None for "it depends". An expression that nobody here knows is None, never a guess. As in
the kernel, a rule whose expression has no value for a packet does not match, whatever it compares with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

Facts = Mapping[str, Any]
"""What is known of a packet, by the words of nft: `tcp dport`, `ct state`, `meta iifname`. Bits are frozensets."""

Sets = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Unknown:
    """A value that is not known. `what` names it for a person; "" if we do not understand the expression.

    `least` and `most` bound it; `never` has values that it does not have.
    """

    what: str = ""
    least: Any = None
    most: Any = None
    never: tuple[Any, ...] = ()


NO_VALUE = object()
"""The value of an expression that this packet does not have."""

_PROTOCOLS = {6: "tcp", 17: "udp", "6": "tcp", "17": "udp"}


@dataclass(frozen=True)
class Match:
    """Whether a condition holds, and if that depends, on which facts."""

    holds: bool | None
    depends_on: tuple[str, ...] = ()


def holds(statement: Mapping[str, Any], facts: Facts, sets: Sets) -> Match:
    """Evaluate a condition: `match`, or `any` and `none` of several."""
    if "match" in statement:
        condition = statement["match"]
        return compare(condition["op"], value_of(condition["left"], facts), condition["right"], sets)
    word = "any" if "any" in statement else "none"
    parts = [holds(each, facts, sets) for each in statement[word]]
    found = _any(part.holds for part in parts)
    if found is None:
        return Match(None, tuple(each for part in parts for each in part.depends_on))
    return Match(found if word == "any" else not found)


def compare(op: str, value: Any, right: Any, sets: Sets) -> Match:
    """Compare a value as the kernel does."""
    if value is NO_VALUE:
        return Match(False)
    found = _compare(op, value, right, sets)
    return Match(found, _names(value)) if found is None else Match(found)


def _names(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, tuple) else (value,)
    return tuple(part.what for part in parts if isinstance(part, Unknown)) or ("",)


def _compare(op: str, value: Any, right: Any, sets: Sets) -> bool | None:
    if op == "!=":
        return _not(_compare("==", value, right, sets))
    if isinstance(value, frozenset) and not _is_set(right):
        return _compare_bits(op, value, right)
    if op in ("==", "in"):
        return _any(contains(element, value) for element in elements_of(right, sets))
    if op in ("<", ">", "<=", ">=") and isinstance(value, int) and isinstance(right, int):
        return {"<": value < right, ">": value > right, "<=": value <= right, ">=": value >= right}[op]
    return None


def _compare_bits(op: str, value: frozenset[str], right: Any) -> bool | None:
    wanted = bits(right)
    if wanted is None:
        return None
    if op == "in":
        return bool(value & wanted)
    return not value & wanted if op == "!" else value == wanted if op == "==" else None


def bits(words: Any) -> frozenset[str] | None:
    """The bits that an expression such as `fin | syn` has; None if it is another one."""
    if isinstance(words, dict) and set(words) == {"|"}:
        return bits(words["|"])
    if isinstance(words, str) and not words.startswith("@"):
        return frozenset([words])
    if isinstance(words, list):
        parts = [bits(word) for word in words]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    return frozenset() if words == 0 and words is not False else None


def _is_set(right: Any) -> bool:
    return (isinstance(right, str) and right.startswith("@")) or (isinstance(right, dict) and "set" in right)


def elements_of(right: Any, sets: Sets) -> Sequence[Any]:
    """The elements that a condition compares with. A set that is not listed has one element that nobody knows."""
    if isinstance(right, str) and right.startswith("@"):
        return sets.get(right[1:], (Unknown(),))
    if isinstance(right, dict) and "set" in right:
        return right["set"] if isinstance(right["set"], list) else [right["set"]]
    return [right]


def contains(element: Any, value: Any) -> bool | None:
    """Whether an element of a set is a value, or contains it."""
    if isinstance(element, dict) and "elem" in element:
        return contains(element["elem"].get("val"), value)
    if isinstance(element, Unknown):
        return None
    if isinstance(value, tuple):
        parts = element.get("concat") if isinstance(element, dict) else None
        if not isinstance(parts, list) or len(parts) != len(value):
            return None
        return _all(contains(part, own) for part, own in zip(parts, value, strict=True))
    if isinstance(value, Unknown) and value.least is None:
        return False if isinstance(element, bool | str) and element in value.never else None
    if isinstance(element, bool) and isinstance(value, str):  # whether a route exists
        return element
    try:
        first, last = _bounds(element, value.least if isinstance(value, Unknown) else value)
        if isinstance(value, Unknown):
            if last < value.least or first > value.most:
                return False
            return True if first <= value.least and value.most <= last else None
        if isinstance(value, frozenset):
            return value == bits(first)
        if isinstance(first, str) and first.endswith("*") and isinstance(value, str):
            return value.startswith(first[:-1])
        return bool(first <= value <= last)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _bounds(element: Any, like: Any) -> tuple[Any, Any]:
    """The least and the greatest value of an element. Raises ValueError, TypeError, KeyError for an unknown one."""
    if isinstance(element, dict) and "prefix" in element:
        network = ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}", strict=False)
        return network.network_address, network.broadcast_address
    if isinstance(element, dict) and "range" in element:
        first, last = element["range"]
        return _as(first, like), _as(last, like)
    return _as(element, like), _as(element, like)


def _as(element: Any, like: Any) -> Any:
    """An element as a value of the same type."""
    if isinstance(like, IPv4Address | IPv6Address):
        return ip_address(element)
    if isinstance(element, bool) != isinstance(like, bool) or isinstance(element, dict | list):
        raise TypeError
    if isinstance(like, int):
        return int(element)
    if like in _PROTOCOLS.values():
        return _PROTOCOLS.get(element, element)
    if isinstance(like, str) and not isinstance(element, str):
        raise TypeError
    return element


def value_of(left: Any, facts: Facts) -> Any:
    """The value of an expression for a packet; an Unknown, or NO_VALUE."""
    if not isinstance(left, dict) or not left:
        return Unknown()
    if "concat" in left:
        parts = tuple(value_of(part, facts) for part in left["concat"])
        return NO_VALUE if NO_VALUE in parts else parts
    if "&" in left:
        return _masked(left["&"], facts)
    (kind, content), *_ = left.items()
    if not isinstance(content, dict):
        return Unknown()
    return facts.get(_word(kind, content), facts.get(f"{kind} *", Unknown()))


def _word(kind: str, content: Mapping[str, Any]) -> str:
    """The expression in nft's words."""
    if kind == "payload":
        protocol = content.get("protocol")
        return f"{'tcp' if protocol == 'th' else protocol} {content.get('field')}"
    if kind == "fib":
        flags = content.get("flags", ())
        return f"fib {' '.join(sorted([flags] if isinstance(flags, str) else flags))} {content.get('result')}"
    return " ".join(str(part) for part in (kind, content.get("dir"), content.get("key")) if part)


def _masked(operands: Any, facts: Facts) -> Any:
    if not isinstance(operands, list) or len(operands) != 2:
        return Unknown()
    value, mask = value_of(operands[0], facts), operands[1]
    if isinstance(value, Unknown):
        return Unknown(value.what)
    if isinstance(value, frozenset):
        wanted = bits(mask)
        return Unknown() if wanted is None else value & wanted
    if value is NO_VALUE:
        return NO_VALUE
    return value & mask if isinstance(value, int) and isinstance(mask, int) else Unknown()


def _any(parts: Iterable[bool | None]) -> bool | None:
    found = list(parts)
    return True if True in found else None if None in found else False


def _all(parts: Iterable[bool | None]) -> bool | None:
    found = list(parts)
    return False if False in found else None if None in found else True


def _not(found: bool | None) -> bool | None:
    return None if found is None else not found
