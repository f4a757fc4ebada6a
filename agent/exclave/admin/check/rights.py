"""The rows of `check` about rights: those of the installation and of each group, and those that others have."""

import re
from collections.abc import Iterable, Mapping, Sequence

from exclave.admin.check.rows import Row, row
from exclave.admin.objects import Change, Manifest, plan_change
from exclave.admin.tables import few
from exclave.api import requests as kinds
from exclave.api.definitions.account_rights import adopted_names, bindings_text, foreign_bindings, not_adopted
from exclave.api.malformed import mapping_in
from exclave.api.names import ACCOUNTS_LABEL, ADOPTED, CONTROLLER, INSTALLATION, accounts_namespace
from exclave.api.requests import Object

# Groups that contain every machine's account.
EVERYBODY = frozenset({"system:serviceaccounts", "system:authenticated", "system:unauthenticated"})

PUBLIC_ROLES = (
    "system:basic-user",
    "system:cluster-trust-bundle-discovery",
    "system:discovery",
    "system:public-info-viewer",
    "system:service-account-issuer-discovery",
)
"""ClusterRoles that Kubernetes itself binds to everybody: discovery, the caller's own name, public keys.
Source: ClusterRoleBindings in k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go.
"""

MACHINE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?[.](join|rejoin|vm)[.][a-z0-9]{5}-[1-9][0-9]{0,2}")

ObjectIndex = Mapping[tuple[str, str, str], Object]  # objects by kind, namespace ("" if cluster-scoped) and name


def index_objects(objects: Iterable[Object]) -> dict[tuple[str, str, str], Object]:
    """An index of these objects."""
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects}


def pending_changes(wanted: Iterable[Manifest], found: ObjectIndex) -> list[Change]:
    """The changes that existing objects need to match their manifests."""
    changes = [plan_change(one, found.get((one.resource.kind, one.namespace or "", one.name))) for one in wanted]
    return [change for change in changes if change.verb != "none"]


def describe_change(change: Change) -> str:
    """The fault of one object."""
    return f"{change.manifest} {'is missing' if change.verb == 'create' else 'has been changed'}"


def rights_rows(controllers: Sequence[Change], groups: Sequence[Change]) -> list[Row]:
    """Do the controller and every group have the rights of this version? Shared objects are listed once."""
    upgrade = "kubectl exclave upgrade"
    return [
        row("the controller's rights are as installed", few(list(map(describe_change, controllers))), upgrade),
        row("every group's rights are as created", few(list(dict.fromkeys(map(describe_change, groups)))), upgrade),
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
            found.append(f"{one['kind']} {name}{f' in {where}' if where else ''}: {role['name']}")
    groups = "system:serviceaccounts, system:authenticated and system:serviceaccounts:<namespace>-vms"
    hint = f"bind it to the accounts that need it: machines' accounts are in {groups}"
    return [row("machines have no other rights", few(found), hint, "warning")]


def foreign_rights_rows(groups: Iterable[Object], bindings: Iterable[Object], controller_namespace: str) -> list[Row]:
    """Do others have rights among the accounts of groups' machines, which no admin has accepted?"""
    bindings = [one for one in bindings if one["kind"] == kinds.ROLE_BINDINGS.kind]
    found = []
    for group in groups:
        namespace, name = group["metadata"]["namespace"], group["metadata"]["name"]
        accounts = accounts_namespace(namespace)
        there = [one for one in bindings if one["metadata"].get("namespace") == accounts]
        if new := not_adopted(foreign_bindings(there, accounts, controller_namespace), adopted_names(group)):
            found.append(f"group {namespace}/{name}: {bindings_text(new)}")
    hint = "delete these, or accept them: kubectl exclave group create NAME -n NAMESPACE --adopt"
    return [row("nobody else has rights among machines' accounts", few(found), hint)]


def controller_namespace_row(found: Object, foreign: Sequence[Object], *, has_account: bool, may_share: bool) -> Row:
    """Is the controller's namespace its own? `found` is the Namespace, `foreign` the RoleBindings of others in it.

    `has_account`: the controller's account was there before. `may_share`: it may be others' namespace, too.
    """
    name, labels = found["metadata"]["name"], mapping_in(mapping_in(found, "metadata"), "labels")
    is_ours = labels.get(INSTALLATION) == name or labels.get("linkerd.io/extension") == "exclave"
    new, accepted = not_adopted(foreign, adopted_names(found)), adopted_names(found)
    claims = [bindings_text(new)] if new else []
    claims += [f"ServiceAccount {CONTROLLER}"] if has_account and not is_ours else []
    fault, hint = None, "delete the namespace, or accept it: kubectl exclave install --adopt"
    if claims or not is_ours:
        made = "" if is_ours else ", which somebody else has made,"
        fault = f"who has rights in namespace {name}{made} may be able to sign certificates of the mesh"
        fault += f"; found: {'; '.join(claims)}" if claims else ""
    if is_ours:
        names = ",".join(sorted({*accepted, *(one["metadata"]["name"] for one in new)}))
        hint = f"delete these, or accept them: kubectl annotate namespace {name} --overwrite {ADOPTED}={names}"
    return row("nobody else has rights in the controller's namespace", fault, hint, "warning" if may_share else "error")


def _reaches(subject: Object, accounts_namespaces: frozenset[str]) -> bool:
    name = str(subject.get("name"))
    if subject.get("kind") == "Group":
        return name in EVERYBODY or name.removeprefix("system:serviceaccounts:") in accounts_namespaces
    if subject.get("kind") == "ServiceAccount":
        return subject.get("namespace") in accounts_namespaces
    return name.startswith("system:serviceaccount:") and name.split(":")[2] in accounts_namespaces


def is_accounts_namespace(namespace: Object) -> bool:
    """True if a namespace is labelled as one of machines' accounts."""
    return ACCOUNTS_LABEL in (namespace["metadata"].get("labels") or {})


def namespace_suffix_rows(namespaces: Iterable[Object]) -> list[Row]:
    """Do other namespaces have the suffix of ours?"""
    foreign = [one["metadata"]["name"] for one in namespaces if not is_accounts_namespace(one)]
    found = [name for name in foreign if name.endswith("-vms")]
    hint = (
        "the suffix is reserved for machines' accounts: the namespace of the name before -vms can have no group, and "
        "accounts in this one cannot create Members"
    )
    return [row("no foreign namespace ends in -vms", few(found), hint, "warning")]


def foreign_objects(namespace: str, accounts: Iterable[Object], pods: Iterable[Object]) -> list[str]:
    """The objects in a namespace of machines' accounts that belong to no machine."""
    names = [one["metadata"]["name"] for one in accounts]
    others = [name for name in names if name != "default" and not MACHINE_ACCOUNT.fullmatch(name)]
    return [
        *(f"ServiceAccount {name} in {namespace}" for name in others),
        *(f"Pod {one['metadata']['name']} in {namespace}" for one in pods),
    ]


def accounts_namespace_rows(found: Sequence[str]) -> list[Row]:
    """Are there foreign objects in namespaces of machines' accounts?"""
    hint = "move it to another namespace: every account here has a machine's rights and limits"
    return [row("namespaces of machines' accounts contain nothing else", few(found), hint, "warning")]
