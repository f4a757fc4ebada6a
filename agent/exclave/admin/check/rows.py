"""The rows of `check`: objects in, rows out. Pure.

A row states what must be true. If it is not, the row is an error (it does not work) or a warning (it works, but may
surprise), with the problem and a hint.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exclave.admin.objects import Change, Manifest, plan_change
from exclave.admin.tables import few, human_duration
from exclave.api.issuer import read_anchors, read_issuer
from exclave.api.member import condition_of, view_member
from exclave.api.names import ACCOUNTS_LABEL
from exclave.api.requests import Object
from exclave.kit.formats.times import epoch, rfc3339

OLDEST = (1, 30)
"""The first Kubernetes release with stable admission policies."""

EXTERNAL_WORKLOADS_CRD = "externalworkloads.workload.linkerd.io"

LEADER_TIMEOUT = 60.0
"""Seconds without a renewal of the Lease after which no controller is the leader."""

SHORTEST_ISSUER = 14 * 86400.0
"""Seconds before the issuer's end from which it is a warning."""

EVERYBODY = frozenset({"system:serviceaccounts", "system:authenticated", "system:unauthenticated"})
"""Groups that every machine's account is in."""

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

ObjectIndex = Mapping[tuple[str, str, str], Object]
"""Objects by kind, namespace ("" if cluster-scoped) and name."""

Result = Literal["success", "warning", "error"]


@dataclass(frozen=True)
class Row:
    """One check; `problem` and `hint` are empty on success."""

    title: str
    result: Result = "success"
    problem: str = ""
    hint: str = ""


def row(title: str, fault: str | None, hint: str, result: Result = "error") -> Row:
    """A check that succeeds if there is no fault."""
    return Row(title) if fault is None else Row(title, result, fault, hint)


def linkerd_report(rows: Sequence[Row]) -> Object:
    """The rows in the JSON form of `linkerd check`'s extensions."""
    checks = []
    for one in rows:
        texts = {"description": one.title, "hint": one.hint, "error": one.problem, "result": one.result}
        checks.append({key: text for key, text in texts.items() if text})
    is_sound = all(one.result != "error" for one in rows)
    return {"success": is_sound, "categories": [{"categoryName": "linkerd-exclave", "checks": checks}]}


def report_text(rows: Sequence[Row], *, short: bool = False) -> str:
    """The rows as `linkerd check` prints them; `short`: only those that failed.

    Source: linkerd2, pkg/healthcheck/healthcheck_output.go.
    """
    marks = {"success": "√", "warning": "‼", "error": "×"}
    lines = ["linkerd-exclave", "---------------"]
    for one in rows:
        if short and one.result == "success":
            continue
        lines.append(f"{marks[one.result]} {one.title}")
        lines += [f"    {text}" for text in (one.problem, one.hint and f"to do: {one.hint}") if text]
    counts = {result: sum(one.result == result for one in rows) for result in ("error", "warning")}
    lines.append(f"\n{len(rows)} checks, {counts['error']} errors, {counts['warning']} warnings")
    return "\n".join(lines)


def prerequisite_rows(version: str, *, linkerd: bool, external_workloads: bool, namespace: str) -> list[Row]:
    """The checks before an installation."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    is_new = found is not None and (int(found[1]), int(found[2])) >= OLDEST
    too_old = None if is_new else f"the API server is {version or 'of an unknown version'}"
    newer = "upgrade the cluster: exclave needs admission policies, which are stable since 1.30"
    no_linkerd = None if linkerd else f"there is no ConfigMap linkerd-config in namespace {namespace}"
    other = "install Linkerd first, or name its namespace with --linkerd-namespace"
    no_crd = None if external_workloads else f"there is no CustomResourceDefinition {EXTERNAL_WORKLOADS_CRD}"
    crds = "upgrade Linkerd's CRDs to 2.15 or newer: linkerd install --crds | kubectl apply -f -"
    return [
        row("Kubernetes is 1.30 or newer", too_old, newer),
        row("Linkerd is installed", no_linkerd, other),
        row("Linkerd supports external workloads", no_crd, crds),
    ]


def guard_rows(fault: str | None) -> list[Row]:
    """The admission policies; `fault` comes from `admission_fault`, as in the controller."""
    return [row("the admission policies are as installed", fault, "kubectl exclave upgrade")]


def controller_rows(deployment: Object | None, lease: Object | None, now: float) -> list[Row]:
    """Do the controllers run, and does one lead?"""
    status = (deployment or {}).get("status") or {}
    ready, wanted = int(status.get("readyReplicas") or 0), ((deployment or {}).get("spec") or {}).get("replicas", 0)
    fault = None if ready and ready >= wanted else f"{ready} of {wanted} are ready"
    spec = (lease or {}).get("spec") or {}
    renewed = epoch(str(spec.get("renewTime") or ""))
    leads = renewed is not None and now - renewed < LEADER_TIMEOUT and bool(spec.get("holderIdentity"))
    silent = "there has been no leader yet" if renewed is None else f"the last renewal is {now - renewed:.0f} s old"
    logs = "kubectl -n exclave logs -l app.kubernetes.io/name=exclave-controller"
    return [
        row("all controllers run", fault, "kubectl -n exclave describe pods", "error" if not ready else "warning"),
        row("one of them leads", None if leads else silent, logs),
    ]


def group_rows(groups: Iterable[Object], headless: Iterable[str]) -> list[Row]:
    """Are groups accepted, and does a Service endanger Linkerd's controller?"""
    refused = [
        f"{group['metadata']['namespace']}/{group['metadata']['name']}: {accepted.message}"
        for group in groups
        if (accepted := condition_of(group, "Accepted")) is not None and not accepted.status
    ]
    services = ", ".join(sorted(headless)) or None
    crash = "a request for one workload's name in a headless Service crashes Linkerd's destination controller"
    return [
        row("every group is accepted", "; ".join(refused) or None, "kubectl exclave group describe NAME", "warning"),
        row("no headless Service selects a group", services, f"give it a cluster IP: {crash}", "warning"),
    ]


def member_rows(members: Iterable[Object]) -> list[Row]:
    """Do members send heartbeats, and is each one machine?"""
    views = [(one["metadata"].get("namespace", ""), view_member(one)) for one in members]
    silent = [
        f"{where}/{view.name}" for where, view in views if view.live is not None and view.live.reason == "NotLive"
    ]
    cloned = [f"{where}/{view.name}" for where, view in views if view.cloned is not None and view.cloned.status]
    return [
        row("every member sends heartbeats", few(silent), "on the machine: exclave status", "warning"),
        row("every member is one machine", few(cloned), "kubectl exclave member describe NAME", "warning"),
    ]


def issuer_rows(name: str, secret: Object | None, roots: Object | None, now: float) -> list[Row]:
    """Is there an issuer, does the mesh trust it, and until when? `name` is its Secret's."""
    title = "the issuer chains to Linkerd's trust anchors"
    hint = "set one: kubectl exclave upgrade --issuer-from, or --issuer-certificate and --issuer-key"
    if secret is None:
        return [row(title, f"there is no Secret {name}", hint)]
    try:
        issuer = read_issuer(secret, read_anchors(roots or {}), now)
    except ValueError as problem:
        return [row(title, f"Secret {name}: {problem}", hint)]
    left = issuer.not_after - now
    soon = f"it ends in {human_duration(left)}" if left < SHORTEST_ISSUER else None
    until = f"the issuer's certificate is valid until {rfc3339(issuer.not_after)}"
    return [Row(title), row(until, soon, f"check why it is not renewed; if nothing renews it, {hint}", "warning")]


# Rights: those of the installation and of each group, compared with their manifests.


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
    """Do the controller and every group have the rights of this version? An object that groups share is listed once."""
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
    """Are there other objects in namespaces of machines' accounts?"""
    hint = "move it to another namespace: every account here has a machine's rights and limits"
    return [row("namespaces of machines' accounts contain nothing else", few(found), hint, "warning")]
