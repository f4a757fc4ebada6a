"""Objects that break their schema, as hypothesis draws them.

@given(damaged({"metadata": {...}, "spec": {...}}))
def test_the_others_are_served(found: Object) -> None: ...
"""

import copy
from typing import Any

from hypothesis import strategies as st

from exclave.api.requests import Object

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [*([before] if before else []), *(path for key, value in inner for path in paths(value, (*before, key)))]


@st.composite
def damaged(draw: st.DrawFn, found: Object) -> Object:
    """The object, with one part of its spec, status or endpoints replaced by anything, or removed."""
    damaged = copy.deepcopy(found)
    places = [path for path in paths(damaged) if path[0] in ("spec", "status", "endpoints")]
    *path, last = draw(st.sampled_from(places))
    inner: Any = damaged
    for key in path:
        inner = inner[key]
    if isinstance(inner, dict) and draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = draw(ANYTHING)
    return damaged
