"""Checks of rights: are ours as installed, and do others reach machines? Objects in, rows out. Pure.

The wanted rights are the manifests of the installation and of each group, compared field by field with what exists; an
additional right is a fault, like a missing one. Machines' accounts belong to the groups of all accounts and of their
namespace, so a binding to one of these reaches them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from exclave.admin.check.rows import Row, row
from exclave.admin.objects import Manifest
from exclave.admin.reconcile import Change, plan_change
from exclave.admin.tables import few
from exclave.api.names import ACCOUNTS_LABEL
from exclave.api.requests import Object

EVERYBODY = frozenset({"system:serviceaccounts", "system:authenticated", "system:unauthenticated"})
"""Groups that every machine's account is in."""

PUBLIC_ROLES = frozenset(
    {
        "system:basic-user",
        "system:cluster-trust-bundle-discovery",
        "system:discovery",
        "system:public-info-viewer",
        "system:service-account-issuer-discovery",
    }
)
"""ClusterRoles that Kubernetes itself binds to everybody: discovery, the caller's own name, public keys.
Source: ClusterRoleBindings in k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go.
"""

MACHINE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?[.](join|rejoin|vm)[.][a-z0-9]{5}-[1-9][0-9]{0,2}")

ObjectIndex = Mapping[tuple[str, str, str], Object]
"""Objects by kind, namespace ("" if cluster-scoped) and name."""


def index_objects(objects: Iterable[Object]) -> dict[tuple[str, str, str], Object]:
    """An ObjectIndex of these objects."""
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects}


def pending_changes(wanted: Iterable[Manifest], found: ObjectIndex) -> list[Change]:
    """The changes that existing objects need to match their manifests."""
    steps = [plan_change(one, found.get((one.resource.kind, one.namespace or "", one.name))) for one in wanted]
    return [step for step in steps if step.verb != "none"]


def describe_change(step: Change) -> str:
    """The fault of one object."""
    name = f"{step.manifest.resource.kind} {step.manifest.body['metadata']['name']}"
    where = f" in {step.manifest.namespace}" if step.manifest.namespace else ""
    return f"{name}{where} {'is missing' if step.verb == 'create' else 'has been changed'}"


def rights_rows(controllers: Sequence[Change], groups: Sequence[Change]) -> list[Row]:
    """Do the controller and every group have the rights of this version? An object that groups share is listed once."""
    faults = list(dict.fromkeys(describe_change(step) for step in groups))
    return [
        row(
            "the controller's rights are as installed",
            few([describe_change(step) for step in controllers]),
            "kubectl exclave upgrade",
        ),
        row("every group's rights are as created", few(faults), "kubectl exclave upgrade"),
    ]


def excess_rights_rows(
    bindings: Iterable[Object], accounts_namespaces: Iterable[str], ours: Iterable[Manifest]
) -> list[Row]:
    """Do rights of others reach machines? `ours` are the manifests of all groups, which do not count."""
    own = {(one.namespace, one.name) for one in ours}
    spaces = frozenset(accounts_namespaces)
    found = []
    for one in bindings:
        where, name, role = one["metadata"].get("namespace"), one["metadata"]["name"], one["roleRef"]
        if (where, name) in own or (role["kind"] == "ClusterRole" and role["name"] in PUBLIC_ROLES):
            continue
        if any(_reaches(subject, spaces) for subject in one.get("subjects") or ()):
            place_words = f" in {where}" if where else ""
            found.append(f"{one['kind']} {name}{place_words}: {role['name']}")
    return [
        row(
            "machines have no other rights",
            few(found),
            "bind it to the accounts that need it: machines' accounts are in system:serviceaccounts, "
            "system:authenticated and system:serviceaccounts:<namespace>-vms",
            "warning",
        )
    ]


def _reaches(subject: Object, accounts_namespaces: frozenset[str]) -> bool:
    name = str(subject.get("name"))
    if subject.get("kind") == "Group":
        return name in EVERYBODY or name.removeprefix("system:serviceaccounts:") in accounts_namespaces
    if subject.get("kind") == "ServiceAccount":
        return subject.get("namespace") in accounts_namespaces
    return name.startswith("system:serviceaccount:") and name.split(":")[2] in accounts_namespaces


def is_accounts_namespace(namespace: Object) -> bool:
    """Whether a namespace is labelled as one of machines' accounts."""
    return ACCOUNTS_LABEL in (namespace["metadata"].get("labels") or {})


def namespace_suffix_rows(namespaces: Iterable[Object]) -> list[Row]:
    """Do others use the suffix of our namespaces?"""
    foreign = [one["metadata"]["name"] for one in namespaces if not is_accounts_namespace(one)]
    found = [name for name in foreign if name.endswith("-vms")]
    return [
        row(
            "no foreign namespace ends in -vms",
            few(found),
            "the suffix is reserved for machines' accounts: the namespace of the name before -vms can have no group, "
            "and accounts in this one cannot create Members",
            "warning",
        )
    ]


def foreign_objects(namespace: str, accounts: Iterable[Object], pods: Iterable[Object]) -> list[str]:
    """The objects in a namespace of machines' accounts that belong to no machine."""
    names = [one["metadata"]["name"] for one in accounts]
    others = [name for name in names if name != "default" and not MACHINE_ACCOUNT.fullmatch(name)]
    return [
        *(f"ServiceAccount {name} in {namespace}" for name in others),
        *(f"Pod {one['metadata']['name']} in {namespace}" for one in pods),
    ]


def accounts_namespace_rows(found: Sequence[str]) -> list[Row]:
    """Are there other objects in namespaces of machines' accounts?"""
    return [
        row(
            "namespaces of machines' accounts contain nothing else",
            few(found),
            "move it to another namespace: every account here has a machine's rights and limits",
            "warning",
        )
    ]
