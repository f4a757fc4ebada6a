"""Checks that the admission policies in a cluster are those that this version installs. Pure."""

from collections.abc import Iterable
from typing import Any

from exclave.api.requests import Object

DEFAULTS: dict[str, Any] = {
    "matchPolicy": "Equivalent",
    "namespaceSelector": {},
    "objectSelector": {},
    "scope": "*",
}  # what API servers add. Source: k8s.io/kubernetes pkg/apis/admissionregistration/v1/defaults.go

REMEDY = "an admin installs it again: kubectl exclave upgrade"


def admission_fault(found: Iterable[Object], wanted: Iterable[Object]) -> str | None:
    """The difference of the admission policies from the wanted ones, as text for a person; None if they do not."""
    fault = first_fault(found, wanted)
    return fault[1] if fault is not None else None


def first_fault(found: Iterable[Object], wanted: Iterable[Object]) -> tuple[Object, str] | None:
    """The first wanted object that is missing or differs in the cluster, and its fault; None if all are right."""
    by_name = {_name(one): one for one in found}
    for one in wanted:
        name = _name(one)
        there = by_name.get(name)
        if there is None or there["metadata"].get("deletionTimestamp"):
            return one, f"{name} is missing; {REMEDY}"
        if not _is_same(one["spec"], there.get("spec")):
            return one, f"{name} is not as this version of exclave installs it; {REMEDY}"
    return None


def _name(one: Object) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def _is_same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or not wanted.keys() <= found.keys():
            return False
        added = found.keys() - wanted.keys()
        return all(key in DEFAULTS and found[key] == DEFAULTS[key] for key in added) and all(
            _is_same(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_is_same, wanted, found))
    return bool(wanted == found)
