"""Reads fields of JSON objects strictly: a mistake is a FieldError that names the field. Pure.

Types are JSON's: true is no number, null is no text. `where` is the path before the field's name, such as `linkerd.`.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from exclave.kit.formats.times import format_duration, parse_duration

LONGEST = 1000 * 365 * 86400.0  # seconds of a duration at most. Such a time from now is still a valid date.
MOST_SHOWN = 100  # characters of a value in an error
MOST_ENTRIES = 1000  # of a list or a mapping. What the agent makes of them, such as nftables rules, grows with them.
LONGEST_TEXT = 4096  # characters of a text of one line
LONGEST_LINES = 256 * 1024  # characters of a text of several lines, such as certificates in PEM


_CONTROL = re.compile("[\x00-\x1f\x7f]")
_CONTROL_BUT_LINE_ENDS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class FieldError(ValueError):
    """A field that is missing, of a wrong type or out of its range; the text names the field."""


def need(tree: Mapping[str, Any], key: str, kind: type, where: str = "", *, lines: bool = False) -> Any:
    """A required field of this type and of a bounded size. A text has no control characters; line ends need `lines`."""
    value = tree.get(key)
    if type(value) is not kind:
        raise FieldError(f"{where}{key}: {kind.__name__} was expected, found {type(value).__name__}")
    if isinstance(value, str):
        most = LONGEST_LINES if lines else LONGEST_TEXT
        if len(value) > most:
            raise FieldError(f"{where}{key}: at most {most} characters were expected, found {len(value)}")
        if not _is_unicode(value) or (_CONTROL_BUT_LINE_ENDS if lines else _CONTROL).search(value):
            raise FieldError(f"{where}{key}: a text was expected, found {shown(value)}")
    if isinstance(value, (list, dict)) and len(value) > MOST_ENTRIES:
        raise FieldError(f"{where}{key}: at most {MOST_ENTRIES} entries were expected, found {len(value)}")
    return value


def optional(tree: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    """A field of this type; an empty value if it is absent or null."""
    return kind() if tree.get(key) is None else need(tree, key, kind, where)


def text(tree: Mapping[str, Any], key: str, where: str = "", *, lines: bool = False) -> str:
    """A text that is not empty, as `need` reads it."""
    found: str = need(tree, key, str, where, lines=lines)
    if not found:
        raise FieldError(f"{where}{key}: a text was expected, found none")
    return found


def one_of(tree: Mapping[str, Any], key: str, default: str, *others: str) -> Any:
    """One of these words; `default` if the field is absent or null."""
    value = default if tree.get(key) is None else tree[key]
    if value not in (default, *others):
        raise FieldError(f"{key}: {' or '.join((default, *others))} was expected, found {shown(value)}")
    return value


def seconds(tree: Mapping[str, Any], key: str, default: str, least: float = 0.0) -> float:
    """A duration such as `10s`, in seconds; `default` if the field is absent or null."""
    written = default if tree.get(key) is None else need(tree, key, str)
    try:
        found = parse_duration(written)
    except ValueError as problem:
        raise FieldError(f"{key}: {problem}") from None
    if found < least:
        raise FieldError(f"{key}: at least {format_duration(least)}, found {written}")
    if found > LONGEST:
        raise FieldError(f"{key}: at most {format_duration(LONGEST)}, found {written}")
    return found


def whole(tree: Mapping[str, Any], key: str, least: int, most: int) -> int:
    """A whole number in this range."""
    found: int = need(tree, key, int)
    if not least <= found <= most:
        raise FieldError(f"{key}: {least} to {most}, found {found}")
    return found


def number(tree: Mapping[str, Any], key: str, default: float, least: float, most: float) -> float:
    """A number in this range; `default` if the field is absent, but not if it is null."""
    found = tree.get(key, default)
    if type(found) not in (int, float) or not least <= found <= most:  # NaN is in no range
        raise FieldError(f"{key}: a number from {least:g} to {most:.0f} was expected, found {shown(found)}")
    return float(found)


def addresses(tree: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """A list of IP addresses; an empty one if the field is absent, but not if it is null."""
    found = need(tree, key, list, where) if key in tree else []
    for one in found:
        if not _is_read_by(ip_address, one):
            raise FieldError(f"{where}{key}: IP addresses were expected, found {shown(one)}")
    return tuple(found)


def networks(tree: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """A list of networks. Host bits may be set, as in Linkerd."""
    found = need(tree, key, list, where)
    for one in found:
        if not _is_read_by(lambda one: ip_network(one, strict=False), one):
            raise FieldError(f"{where}{key}: networks such as 10.0.0.0/8 were expected, found {shown(one)}")
    return tuple(found)


def shown(value: object) -> str:
    """A value as it appears in an error: a list or mapping as its type, a long text shortened."""
    if isinstance(value, (list, dict)):
        return type(value).__name__
    whole = repr(value)
    return whole if len(whole) <= MOST_SHOWN else f"{whole[:MOST_SHOWN]}…"


def _is_read_by(read: Any, found: Any) -> bool:
    # `ip_address` and `ip_network` accept numbers, too.
    try:
        return isinstance(found, str) and read(found) is not None
    except ValueError:
        return False


def _is_unicode(found: str) -> bool:
    try:
        found.encode()
    except UnicodeEncodeError:
        return False
    return True
