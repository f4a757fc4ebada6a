"""Whose the objects of an installation are: other programs', or an earlier version's. Pure.

A field that somebody has edited is set again. A program that applies its own files sets it again, too, for ever: so an
installation is refused where it would change such a field. Only what this command itself has made is ever removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from exclave.admin.check.rows import Row, row
from exclave.admin.kubectl_errors import FieldOwner
from exclave.admin.objects import FIELD_MANAGER, Manifest
from exclave.admin.tables import few
from exclave.api import requests as kinds
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.names import INSTALLATION, MADE_BY_OTHERS
from exclave.api.requests import Object

PRUNED = (
    kinds.DEPLOYMENTS,
    kinds.SERVICES,
    kinds.ROLE_BINDINGS,
    kinds.CLUSTER_ROLE_BINDINGS,
    kinds.ROLES,
    kinds.CLUSTER_ROLES,
    kinds.SERVICE_ACCOUNTS,
    kinds.VALIDATING_ADMISSION_POLICY_BINDINGS,
    kinds.VALIDATING_ADMISSION_POLICIES,
)
"""Kinds of which an upgrade removes obsolete objects, in this order: rights before the policies that limit them.
Never definitions, namespaces or Secrets, which hold what users made.
"""

REAPPLYING = ("argocd-application-controller", "argocd-controller", "helm", "helm-controller", "kustomize-controller")
"""Field managers of Argo CD, Helm and Flux, which set their fields again also if they do not use server-side apply."""

NOT_OTHERS = "no other program manages exclave's objects"


def labelled(one: Manifest, namespace: str) -> Manifest:
    """The object with the label by which a later version finds it."""
    metadata = one.body["metadata"]
    labels = {**(metadata.get("labels") or {}), INSTALLATION: namespace}
    return replace(one, body={**one.body, "metadata": {**metadata, "labels": labels}})


def owners_row(conflicts: Mapping[str, Sequence[FieldOwner]]) -> Row:
    """Do other programs set fields to other values than ours, again and again? `conflicts` by the object's title."""
    found = [
        f"{title}: {owner.manager} sets {few(owner.fields)}"
        for title, owners in conflicts.items()
        for owner in owners
        if owner.applies or owner.manager in REAPPLYING
    ]
    hint = (
        "change these fields there, or install exclave with that program; to take them over from it: the same command "
        f"with --dry-run | kubectl apply --server-side --field-manager={FIELD_MANAGER} --force-conflicts -f -"
    )
    return row(NOT_OTHERS, few(found), hint)


def outcome(found: Object | None, applied: Object) -> Literal["created", "changed", "unchanged"]:
    """How applying an object has changed it."""
    if found is None:
        return "created"
    return "unchanged" if _content(found) == _content(applied) else "changed"


def _content(one: Object) -> Object:
    """What an admin decides of an object."""
    metadata = {key: mapping_in(one, "metadata").get(key) for key in ("labels", "annotations")}
    return {**{key: value for key, value in one.items() if key != "status"}, "metadata": metadata}


def obsolete(found: Iterable[Object], wanted: Iterable[Manifest]) -> list[Object]:
    """The objects with our label that this command has applied, and that this version does not make."""
    needed = {(one.resource.kind, one.namespace or "", one.name) for one in wanted}
    return [
        one
        for one in found
        if (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) not in needed
        and is_applied_by_us(one)
    ]


def is_marked_as_others(namespace: Object) -> bool:
    """True if an installation found this namespace already there, made by others."""
    return MADE_BY_OTHERS in mapping_in(mapping_in(namespace, "metadata"), "annotations")


def is_applied_by_us(one: Object) -> bool:
    """True if `install` has applied it. A label alone could be somebody else's."""
    entries = mappings_in(mapping_in(one, "metadata"), "managedFields")
    return any((entry.get("manager"), entry.get("operation")) == (FIELD_MANAGER, "Apply") for entry in entries)
