"""Which change an existing object needs to match its manifest. Pure.

A missing object is created. Of an existing one only the manifest's fields are changed; lists are replaced whole. A
binding's roleRef cannot be changed, so a different one blocks the change.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from exclave.admin.objects import Manifest
from exclave.admin.tables import object_name
from exclave.api.requests import Object


@dataclass(frozen=True)
class Change:
    """Create the object, patch it (JSON merge patch), do nothing, or report that the existing one blocks it."""

    verb: Literal["create", "patch", "none", "blocked"]
    manifest: Manifest
    patch: Object = field(default_factory=dict)

    def __str__(self) -> str:
        name = object_name(self.manifest.resource, self.manifest.body)
        where = f" in {self.manifest.namespace}" if self.manifest.namespace else ""
        if self.verb == "patch":
            return f"{name}{where} changed: {', '.join(paths(self.patch))}"
        words = {"create": "created", "none": "unchanged", "blocked": "has another roleRef, which cannot be changed"}
        return f"{name}{where} {words[self.verb]}"


def plan_change(manifest: Manifest, found: Object | None) -> Change:
    """The change for a manifest; `found` is the existing object."""
    if found is None:
        return Change("create", manifest)
    patch = difference(_wanted(manifest.body), found)
    if "roleRef" in patch:
        return Change("blocked", manifest)
    return Change("patch", manifest, patch) if patch else Change("none", manifest)


def difference(wanted: Object, found: Object) -> Object:
    """The merge patch from `found` to `wanted`; empty if nothing differs."""
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
    """The keys that a patch changes, dotted, at most two levels deep."""
    found = []
    for key, value in tree.items():
        path = f"{before}{key}"
        found += paths(value, f"{path}.") if isinstance(value, dict) and value and not before else [path]
    return found


def _wanted(body: Object) -> Object:
    """The fields that we manage: all but apiVersion, kind, name and namespace."""
    metadata = {key: value for key, value in body["metadata"].items() if key in ("labels", "annotations")}
    rest: dict[str, Any] = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    return {**rest, **({"metadata": metadata} if metadata else {})}
