"""Numbers and ranges of numbers: parse, merge, subtract, render. A `Span` is (first, last), both included. Pure."""

import re
from collections.abc import Iterable

Span = tuple[int, int]

_RANGE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})", re.ASCII)


def parse_span(text: str) -> Span:
    """Parse "8000-8100". Raises ValueError if it is not a range, or its end is before its start."""
    if (found := _RANGE.fullmatch(text)) is None:
        raise ValueError(f"a range such as 8000-8100 was expected, found {text!r}")
    first, last = int(found[1]), int(found[2])
    if first > last:
        raise ValueError(f"a range that begins with its lower end was expected, found {text!r}")
    return first, last


def as_span(numbers: "int | Span") -> Span:
    """A number as a range of one."""
    return numbers if isinstance(numbers, tuple) else (numbers, numbers)


def merge(numbers: "Iterable[int | Span]") -> tuple[Span, ...]:
    """The same numbers, sorted, in as few spans as possible."""
    merged: list[Span] = []
    for first, last in sorted(map(as_span, numbers)):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def without(numbers: "Iterable[int | Span]", *holes: int) -> tuple[Span, ...]:
    """The same numbers, merged, except for `holes`."""
    left = list(merge(numbers))
    for hole in holes:
        for place, (first, last) in enumerate(left):
            if first <= hole <= last:
                pieces = ((first, hole - 1), (hole + 1, last))
                left[place : place + 1] = [piece for piece in pieces if piece[0] <= piece[1]]
                break
    return tuple(left)


def render_span(span: Span) -> str:
    """`8080`, or `8000-8100`."""
    first, last = span
    return str(first) if first == last else f"{first}-{last}"
