"""Reads objects that may not match their schema, such as stored objects that are older than it. Pure."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from exclave.api.requests import Object
from exclave.errors import describe

T = TypeVar("T")

# Exceptions of code that reads such an object.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read_each(
    objects: Iterable[Object], read: Callable[[Object], T], report: Callable[[Object, Exception], None]
) -> list[T]:
    """The result of `read` for each object. One for which it fails is reported and left out."""
    found = []
    for one in objects:
        try:
            found.append(read(one))
        except MALFORMED as problem:
            report(one, problem)
    return found


def mapping_in(found: object, key: str) -> dict[str, Any]:
    """The mapping at a key of an object; an empty one if there is none. Never raises."""
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, dict) else {}


def mappings_in(found: object, key: str) -> list[dict[str, Any]]:
    """The mappings in the list at a key of an object; none if there is no list. Never raises."""
    value = found.get(key) if isinstance(found, dict) else None
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def fault_text(problem: Exception) -> str:
    """The fault of an object, for a person. A ValueError's text states it; other types come from a malformed object."""
    if isinstance(problem, ValueError):
        return str(problem)
    return f"it has another shape than expected: {describe(problem)}"


def object_title(found: Object, kind: str = "") -> str:
    """An object's name in a log, such as `Member shop/web-k7q2x-1`; list items need `kind`. Never raises."""
    metadata = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(metadata, dict):
        return "an object without metadata"
    place = "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{kind or found.get('kind') or 'object'} {place or 'without a name'}"
