"""Whether rights are as installed, and whether any others reach machines: objects in, rows out. Pure.

Rules: what an installation and each group need is compared field by field with what stands, by the code that makes it;
a right more counts as a right less does. Machines' accounts are in the groups of every account and in that of their
namespace, so a binding to either reaches them; our own bindings and those of every cluster do not count.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from exclave.admin.check.rows import Row, few, row
from exclave.admin.objects import Manifest
from exclave.admin.reconcile import Change, plan_change
from exclave.api.names import ACCOUNTS_LABEL
from exclave.api.requests import Object

EVERYBODY = frozenset({"system:serviceaccounts", "system:authenticated", "system:unauthenticated"})
"""Groups that machines' accounts are in, too."""

PUBLIC_ROLES = frozenset(
    {
        "system:basic-user",
        "system:cluster-trust-bundle-discovery",
        "system:discovery",
        "system:public-info-viewer",
        "system:service-account-issuer-discovery",
    }
)
"""ClusterRoles that every cluster gives to everybody: they tell the API's shape, a caller's own name, and keys by which
tokens and certificates are known.
Source: ClusterRoleBindings in k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go.
"""

MACHINE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?[.](join|rejoin|vm)[.][a-z0-9]{5}-[1-9][0-9]{0,2}")

Standing = Mapping[tuple[str, str, str], Object]
"""Objects by kind, namespace ("" for none) and name."""


def standing(objects: Iterable[Object]) -> dict[tuple[str, str, str], Object]:
    """Objects so that each is found."""
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in objects}


def pending_changes(wanted: Iterable[Manifest], found: Standing) -> list[Change]:
    """What is not as it should be, with what would make it so."""
    steps = [plan_change(one, found.get((one.resource.kind, one.namespace or "", one.name))) for one in wanted]
    return [step for step in steps if step.verb != "none"]


def describe_change(step: Change) -> str:
    """What is wrong with one object."""
    name = f"{step.manifest.resource.kind} {step.manifest.body['metadata']['name']}"
    where = f" in {step.manifest.namespace}" if step.manifest.namespace else ""
    return f"{name}{where} {'is missing' if step.verb == 'create' else 'has been changed'}"


def rights_rows(controllers: Sequence[Change], groups: Sequence[Change]) -> list[Row]:
    """Whether the controller and every group have the rights of this version. Of several groups one object is one."""
    told = list(dict.fromkeys(describe_change(step) for step in groups))
    return [
        row(
            "the controller's rights are as installed",
            few([describe_change(step) for step in controllers]),
            "kubectl exclave upgrade",
        ),
        row("the rights of every group are as it was made with", few(told), "kubectl exclave upgrade"),
    ]


def excess_rights_rows(
    bindings: Iterable[Object], accounts_namespaces: Iterable[str], ours: Iterable[Manifest]
) -> list[Row]:
    """Whether rights reach machines that nobody meant for them.

    `bindings` are the cluster's and the namespaces', `homes` the namespaces of machines' accounts, `ours` what groups
    are made with.
    """
    known = {(one.namespace, one.name) for one in ours}
    spaces = frozenset(accounts_namespaces)
    found = []
    for one in bindings:
        where, name, role = one["metadata"].get("namespace"), one["metadata"]["name"], one["roleRef"]
        if (where, name) in known or (role["kind"] == "ClusterRole" and role["name"] in PUBLIC_ROLES):
            continue
        if any(_reaches(subject, spaces) for subject in one.get("subjects") or ()):
            place_words = f" in {where}" if where else ""
            found.append(f"{one['kind']} {name}{place_words}: {role['name']}")
    return [
        row(
            "no right that is not meant for them reaches machines",
            few(found),
            "bind it to those who need it: machines' accounts are in system:serviceaccounts, system:authenticated and "
            "system:serviceaccounts:<namespace>-vms",
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
    """Whether a namespace says that it holds machines' accounts."""
    return ACCOUNTS_LABEL in (namespace["metadata"].get("labels") or {})


def namespace_suffix_rows(namespaces: Iterable[Object]) -> list[Row]:
    """Whether others have namespaces with the ending of ours."""
    named = [one["metadata"]["name"] for one in namespaces if not is_accounts_namespace(one)]
    strangers = [name for name in named if name.endswith("-vms")]
    return [
        row(
            "no namespace of somebody else's ends in -vms",
            few(strangers),
            "this is where accounts of machines go: no group can be made in the namespace of the name before -vms, and "
            "accounts in these can make no Member",
            "warning",
        )
    ]


def foreign_objects(namespace: str, accounts: Iterable[Object], pods: Iterable[Object]) -> list[str]:
    """What is in a namespace of machines' accounts and is none of theirs."""
    names = [one["metadata"]["name"] for one in accounts]
    odd = [name for name in names if name != "default" and not MACHINE_ACCOUNT.fullmatch(name)]
    return [
        *(f"ServiceAccount {name} in {namespace}" for name in odd),
        *(f"Pod {one['metadata']['name']} in {namespace}" for one in pods),
    ]


def accounts_namespace_rows(odd: Sequence[str]) -> list[Row]:
    """Whether namespaces of machines' accounts hold nothing else."""
    return [
        row(
            "namespaces of machines' accounts hold nothing else",
            few(list(odd)),
            "move it to another namespace: every account in these is held to what a machine may do, and has its rights",
            "warning",
        )
    ]
