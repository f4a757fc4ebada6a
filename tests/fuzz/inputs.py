"""Inputs for parsers: random bytes, damaged valid inputs, JSON of the wrong shape, and very large inputs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**400, -(10**400), float("inf"), float("nan"), 1e308),
    *("", "a", "\0", "\ud800", "٣", "a" * 1000, "-1", "1e999", "9" * 500),
    *([], {}, [None], [[]], {"": None}, {"a": {"a": {}}}),
)
"""Values that replace the expected ones in JSON."""

_TREES = st.recursive(
    st.sampled_from(ODD_VALUES[:22]) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)

_BLOCKS = (
    b"\0",
    b"\xff",
    b"9",
    b"-",
    b".",
    b",",
    b":",
    b"=",
    b" ",
    b"\n",
    b'"',
    b"\\",
    b"a",
    b"[",
    b"{",
    b'{"a":',
    b"(",
)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A valid input with a few changes: bytes replaced, inserted, repeated or cut out."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.integers(0, 8) | st.just(len(content)))
        piece = draw(st.sampled_from((b"", content[start:end] * 2, *_BLOCKS)) | st.binary(max_size=6))
        content = content[:start] + piece + content[end:]
    return content


@st.composite
def misshapen(draw: st.DrawFn, seeds: Sequence[Any]) -> bytes:
    """JSON with one or two values that are missing or of another type."""
    tree = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(tree))
        value = draw(st.sampled_from(ODD_VALUES) | _TREES)
        tree = _replaced(tree, draw(st.sampled_from(places)), value, is_removed=draw(st.integers(0, 4)) == 0)
    return json.dumps(tree).encode()


def inputs(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Inputs of every kind."""
    trees = [tree for tree in map(_as_json, seeds) if isinstance(tree, (dict, list)) and tree]
    ways = [st.binary(max_size=64), damaged(seeds)]
    return st.one_of(*ways, *([misshapen(trees)] * 3 if trees else []))


def giants(seeds: Sequence[bytes], size: int) -> Iterator[bytes]:
    """Inputs of the largest size: one block repeated, alone and inside of a valid input."""
    for block in (*_BLOCKS, *seeds):
        if not block:
            continue
        yield (block * (size // len(block) + 1))[:size]
        for seed in seeds[:1]:
            if len(seed) < size:
                middle = len(seed) // 2
                repeated = (block * (size // len(block) + 1))[: size - len(seed)]
                yield seed[:middle] + repeated + seed[middle:]
    for seed in seeds[:1]:
        yield from _giant_trees(_as_json(seed), size)


def _giant_trees(tree: Any, size: int) -> Iterator[bytes]:
    """JSON of this size: each value of the tree as a long text, a long list, a deep one, and a large number."""
    if not isinstance(tree, (dict, list)):
        return
    for place in _places(tree):
        for value in ("a" * size, [0] * (size // 3)):
            yield json.dumps(_replaced(tree, place, value)).encode()[:size]
        marked = json.dumps(_replaced(tree, place, "@here@")).encode()
        for block in (b"[" * (size // 2) + b"]" * (size // 2), b"9" * 4000):
            yield marked.replace(b'"@here@"', block)


def _as_json(seed: bytes) -> Any:
    try:
        return json.loads(seed)
    except ValueError:
        return None


def _places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a tree."""
    yield above
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from _places(tree[key], (*above, key))


def _replaced(tree: Any, place: tuple[Any, ...], value: Any, *, is_removed: bool = False) -> Any:
    """The tree with another value at a path."""
    if not place:
        return value
    key, *rest = place
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if is_removed and not rest:
        del copy[key]
    else:
        copy[key] = _replaced(tree[key], tuple(rest), value, is_removed=is_removed)
    return copy
