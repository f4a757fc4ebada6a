"""Objects of another shape than their schema has. Pure.

The API server checks every write, but a stored object may be older than the definition. A fault in one object must not
prevent that the others are read.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from exclave.api.requests import Object
from exclave.errors import describe

T = TypeVar("T")

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What code raises that reads such an object."""


def read_each(
    objects: Iterable[Object], read: Callable[[Object], T], report: Callable[[Object, Exception], None]
) -> list[T]:
    """What `read` returns for each object; one that it fails for is reported and left out."""
    found = []
    for one in objects:
        try:
            found.append(read(one))
        except MALFORMED as problem:
            report(one, problem)
    return found


def mapping_in(found: object, key: str) -> dict[str, Any]:
    """The mapping at a key of an object; an empty one if anything else is there. Never raises."""
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, dict) else {}


def mappings_in(found: object, key: str) -> list[dict[str, Any]]:
    """The mappings in the list at a key of an object; none if there is no list. Never raises."""
    value = found.get(key) if isinstance(found, dict) else None
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def fault_text(problem: Exception) -> str:
    """What is wrong with an object, for a person. A ValueError's text says it; all others come from a wrong shape."""
    if isinstance(problem, ValueError):
        return str(problem)
    return f"it has another shape than expected: {describe(problem)}"


def object_title(found: Object, kind: str = "") -> str:
    """An object as a log names it: `Member shop/web-k7q2x-1`. Never raises.

    `kind` is for an item of a list, since a list of a built-in kind does not repeat it.
    """
    metadata = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(metadata, dict):
        return "an object without metadata"
    place = "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{kind or found.get('kind') or 'object'} {place or 'without a name'}"
