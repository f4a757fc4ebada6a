"""What is still to be done so that an object stands as wanted. Pure.

Rules: what is not there is made; of what is there, only what is wanted is changed, and what nobody spoke of is kept; a
list is replaced whole. What cannot be changed (whom a binding's role is) is said and not attempted.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from exclave.admin.objects import Manifest
from exclave.admin.tables import object_name
from exclave.api.requests import Object


@dataclass(frozen=True)
class Change:
    """One step: make the object, change it by this merge patch, keep it as it is, or say that it is in the way."""

    verb: Literal["create", "patch", "none", "blocked"]
    manifest: Manifest
    patch: Object = field(default_factory=dict)

    def __str__(self) -> str:
        name = object_name(self.manifest.resource, self.manifest.body)
        where = f" in {self.manifest.namespace}" if self.manifest.namespace else ""
        if self.verb == "patch":
            return f"{name}{where} changed: {', '.join(paths(self.patch))}"
        told = {"create": "created", "none": "unchanged", "blocked": "has another roleRef, which cannot be changed"}
        return f"{name}{where} {told[self.verb]}"


def plan_change(manifest: Manifest, found: Object | None) -> Change:
    """The step for an object, of which `found` is what stands."""
    if found is None:
        return Change("create", manifest)
    patch = difference(_wanted(manifest.body), found)
    if "roleRef" in patch:
        return Change("blocked", manifest)
    return Change("patch", manifest, patch) if patch else Change("none", manifest)


def difference(wanted: Object, found: Object) -> Object:
    """The merge patch that brings `found` to what is wanted; empty if it is that already."""
    patch: Object = {}
    for key, value in wanted.items():
        there = found.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            if inner := difference(value, there):
                patch[key] = inner
        elif value != there:
            patch[key] = value
    return patch


def paths(tree: Object, before: str = "") -> list[str]:
    """The keys that a patch changes, with dots, two levels deep."""
    found = []
    for key, value in tree.items():
        path = f"{before}{key}"
        found += paths(value, f"{path}.") if isinstance(value, dict) and value and not before else [path]
    return found


def _wanted(body: Object) -> Object:
    """What of an object can be wanted: not what it is, and where."""
    metadata = {key: value for key, value in body["metadata"].items() if key in ("labels", "annotations")}
    rest: dict[str, Any] = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    return {**rest, **({"metadata": metadata} if metadata else {})}
