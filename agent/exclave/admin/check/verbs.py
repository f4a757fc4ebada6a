"""`check`: checks the installation. `linkerd check` also runs it, and prints its rows among its own.

A row states a condition that must hold. Otherwise it is an error (something does not work) or a warning (it works, but
may surprise). All checks run, also after a failure; one that the admin may not read fails. Exit code: 0, or 3 after an
error. The options that `linkerd check` passes to extensions are accepted and ignored.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from exclave.admin import arguments
from exclave.admin.group.checks import group_refusal, selects_group
from exclave.admin.kubectl import Kubectl, Objects
from exclave.admin.objects import (
    Change,
    Installation,
    Manifest,
    group_objects,
    guard_manifests,
    plan_change,
    read_installation,
)
from exclave.admin.session import Session
from exclave.admin.tables import few, human_duration
from exclave.api import requests as kinds
from exclave.api.definitions.account_rights import adopted_names, bindings_text, foreign_bindings, not_adopted
from exclave.api.definitions.admission import admission_fault
from exclave.api.fields import FieldError
from exclave.api.group import Port, account_of, parse_group
from exclave.api.issuer import Issuer, has_anchor_key, read_anchors, read_issuer
from exclave.api.linkerd_config import config_fault, read_linkerd
from exclave.api.malformed import MALFORMED, fault_text, mapping_in
from exclave.api.member import READY, condition_of, view_member
from exclave.api.names import ACCOUNTS_LABEL, CONTROLLER, ELECTION, GROUP_LABEL, accounts_namespace
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings
from exclave.api.workload.opaque_ports import OpaqueMismatch, opaque_mismatches
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.formats.times import epoch, rfc3339

NOT_SOUND = 3
LINKERD_OPTIONS = ("--api-addr", "--wait", "--proxy", "--verbose")
TRUST_ROOTS = "linkerd-identity-trust-roots"
SETTINGS_READ = "Linkerd's settings can be used"
OLDEST = (1, 30)  # the first Kubernetes release with stable admission policies

EXTERNAL_WORKLOADS_CRD = "externalworkloads.workload.linkerd.io"

LEADER_TIMEOUT = 60.0  # seconds without a renewal of the Lease after which there is no leader
SHORTEST_ISSUER = 14 * 86400.0  # seconds before the issuer's end at which a warning starts

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

SAME_REASON = "the same as above"  # an API server that is away would fill the report with one message

MACHINE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?[.](join|rejoin|vm)[.][a-z0-9]{5}-[1-9][0-9]{0,2}")

ObjectIndex = Mapping[tuple[str, str, str], Object]  # objects by kind, namespace ("" if cluster-scoped) and name

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


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `check`, and the command by which `linkerd check` finds extensions."""
    summary = "check the installation in this cluster"
    check = arguments.add_verb(subparsers, "check", _check, summary, "kubectl exclave check")
    arguments.add_namespaces(check)
    check.add_argument("--pre", action="store_true", help="only the checks before an installation")
    for option in LINKERD_OPTIONS:
        check.add_argument(option, nargs="?", help=argparse.SUPPRESS)
    arguments.add_output(check, "table", "json", "short")
    metadata = subparsers.add_parser("_extension-metadata")
    arguments.add_common(metadata)
    metadata.set_defaults(run=_extension_metadata)


def _extension_metadata(_session: Session, _options: argparse.Namespace) -> int:
    """`linkerd check` calls this in every program named linkerd-… to learn whether to run its checks."""
    print(json.dumps({"name": "linkerd-exclave", "checks": "always"}))
    return 0


def _check(session: Session, options: argparse.Namespace) -> int:
    rows = list(_rows(session, options))
    if options.output == "json":
        print(json.dumps(linkerd_report(rows), indent=2))
    else:
        print(report_text(rows, short=options.output == "short"))
    return NOT_SOUND if any(one.result == "error" for one in rows) else 0


class ClusterSnapshot:
    """Objects of the cluster, each read once, at its first use. The first use may raise ClusterError."""

    def __init__(self, kubectl: Kubectl, namespace: str, linkerd: str | None) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._linkerd = linkerd

    @cached_property
    def deployment(self) -> Object | None:
        """The controller's Deployment."""
        return self._kubectl.get(kinds.DEPLOYMENTS, self._namespace, CONTROLLER)

    @cached_property
    def installation(self) -> Installation:
        """The options of the installation; the defaults without an installation."""
        if self.deployment is None:
            return Installation(self._namespace, self._linkerd or "linkerd")
        return read_installation(self.deployment)

    @property
    def linkerd(self) -> str:
        """Linkerd's namespace."""
        return self._linkerd or self.installation.linkerd

    @cached_property
    def groups(self) -> Objects:
        """Every group."""
        return self._kubectl.list(kinds.WORKLOAD_GROUPS)

    @property
    def has_definitions(self) -> bool:
        """True if the API server serves our kinds."""
        try:
            return self.groups is not None
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return False
            raise

    @cached_property
    def namespaces(self) -> Objects:
        """Every namespace."""
        return self._kubectl.list(kinds.NAMESPACES)

    @cached_property
    def bindings(self) -> Objects:
        """ClusterRoleBindings and RoleBindings."""
        return [*self._kubectl.list(kinds.CLUSTER_ROLE_BINDINGS), *self._kubectl.list(kinds.ROLE_BINDINGS)]

    @property
    def wanted_by_groups(self) -> list[Manifest]:
        """The manifests of all groups, without the groups themselves."""
        return [
            one
            for group in self.groups
            for one in group_objects(
                group["metadata"]["namespace"], group["metadata"]["name"], mapping_in(group, "spec"), self._namespace
            )
            if one.resource is not kinds.WORKLOAD_GROUPS
        ]

    @property
    def accounts_namespaces(self) -> list[str]:
        """The namespaces of machines' accounts."""
        return [one["metadata"]["name"] for one in self.namespaces if is_accounts_namespace(one)]

    def rights(self) -> ObjectIndex:
        """All objects that grant rights."""
        kubectl, wanted = self._kubectl, self.wanted_by_groups
        accounts = {(one.namespace, one.name) for one in wanted if one.resource is kinds.SERVICE_ACCOUNTS}
        accounts.add((self._namespace, CONTROLLER))
        named = [kubectl.get(kinds.SERVICE_ACCOUNTS, *place) for place in sorted(accounts, key=str)]
        named.append(kubectl.get(kinds.CLUSTER_ROLES, None, CONTROLLER))
        existing = [one for one in named if one is not None]
        return index_objects([*self.namespaces, *kubectl.list(kinds.ROLES), *self.bindings, *existing])


def _rows(session: Session, options: argparse.Namespace) -> Iterator[Row]:
    kubectl, where = session.kubectl, options.controller_namespace
    found = ClusterSnapshot(kubectl, where, options.linkerd_namespace)
    first = _checked(
        "the cluster can run exclave",
        lambda: check_prerequisites(
            session, options.linkerd_namespace or ("linkerd" if options.pre else found.linkerd)
        ),
    )
    yield from first
    if options.pre:
        return
    checks: dict[str, Callable[[], list[Row]]] = {
        "the admission policies are as installed": lambda: _policies(kubectl, where),
        "rights are as installed": lambda: _rights(found),
        "all controllers run": lambda: controller_rows(
            found.deployment, kubectl.get(kinds.LEASES, where, ELECTION), session.now()
        ),
        SETTINGS_READ: lambda: _linkerd(session, found),
        "the issuer chains to Linkerd's trust anchors": lambda: _issuer(session, found),
        "every group is accepted": lambda: _groups(session, found),
        "policies name groups as they name pods": lambda: _policies_of_groups(kubectl, found),
        "every member sends heartbeats": lambda: member_rows(kubectl.list(kinds.MEMBERS)),
        "no member reports a problem": lambda: report_rows(kubectl.list(kinds.EXTERNAL_WORKLOADS)),
        "machines have no other rights": lambda: excess_rights_rows(
            found.bindings, found.accounts_namespaces, found.wanted_by_groups
        ),
        "nobody else has rights among machines' accounts": lambda: foreign_rights_rows(
            found.groups, found.bindings, where
        ),
        "namespaces of machines' accounts contain nothing else": lambda: accounts_namespace_rows(
            [one for home in found.accounts_namespaces for one in find_foreign(kubectl, home)]
        ),
    }
    reasons = {one.problem for one in first if one.result == "error"}
    for title, check in checks.items():
        for one in _checked(title, check):
            yield replace(one, problem=SAME_REASON, hint="") if one.problem in reasons else one
            if one.result == "error":
                reasons.add(one.problem)


def check_prerequisites(session: Session, linkerd: str) -> list[Row]:
    """The checks before an installation. Raises ClusterError."""
    kubectl = session.kubectl
    rows = prerequisite_rows(
        kubectl.server_version(),
        linkerd=kubectl.get(kinds.CONFIG_MAPS, linkerd, "linkerd-config") is not None,
        external_workloads=kubectl.get(kinds.CUSTOM_RESOURCE_DEFINITIONS, None, EXTERNAL_WORKLOADS_CRD) is not None,
        namespace=linkerd,
    )
    title = "no foreign namespace ends in -vms"
    return [*rows, *_checked(title, lambda: namespace_suffix_rows(kubectl.list(kinds.NAMESPACES)))]


def _policies(kubectl: Kubectl, where: str) -> list[Row]:
    wanted = guard_manifests(where)
    found = [one for manifest in wanted if (one := kubectl.get(*manifest.key)) is not None]
    return guard_rows(admission_fault(found, [manifest.body for manifest in wanted]))


def _rights(found: ClusterSnapshot) -> list[Row]:
    existing = found.rights()
    ours, groups = (pending_changes(wanted, existing) for wanted in (found.installation.rights, found.wanted_by_groups))
    return rights_rows(ours, groups)


def _issuer(session: Session, found: ClusterSnapshot) -> list[Row]:
    where, name = found.installation.issuer_namespace, found.installation.issuer_secret
    roots = session.kubectl.get(kinds.CONFIG_MAPS, found.linkerd, TRUST_ROOTS)
    linkerd, _ = find_linkerd(session.kubectl, found.linkerd)
    secret = session.kubectl.get(kinds.SECRETS, where, name)
    return issuer_rows(f"{where}/{name}", secret, roots, session.now(), linkerd)


def _linkerd(session: Session, found: ClusterSnapshot) -> list[Row]:
    _, refused = find_linkerd(session.kubectl, found.linkerd)
    return [row(SETTINGS_READ, refused, "set each of these keys right: linkerd upgrade, or helm upgrade")]


def _groups(session: Session, found: ClusterSnapshot) -> list[Row]:
    namespaces = sorted({group["metadata"]["namespace"] for group in found.groups})
    services = {namespace: session.kubectl.list(kinds.SERVICES, namespace) for namespace in namespaces}
    headless = [
        f"{namespace}/{service['metadata']['name']}"
        for namespace in namespaces
        for service in services[namespace]
        if mapping_in(service, "spec").get("clusterIP") == "None"
        and any(selects_group(service, group) for group in found.groups if group["metadata"]["namespace"] == namespace)
    ]
    listed = find_opaque_ports(session.kubectl, found.linkerd)
    mismatches = [
        one
        for group in found.groups
        for service in services[group["metadata"]["namespace"]]
        if listed is not None and selects_group(service, group)
        for one in opaque_mismatches(service, group["metadata"]["name"], _ports(group), listed)
    ]
    return group_rows(found.groups, headless, mismatches)


def find_opaque_ports(kubectl: Kubectl, linkerd: str) -> str | None:
    """Linkerd's own list of opaque ports, from its ConfigMap; None if that cannot be read. Raises ClusterError."""
    try:
        found, _ = find_linkerd(kubectl, linkerd)
    except ApiRefusal:
        return None  # the other checks report who may not read it
    return found.opaque_ports if found is not None else None


def find_linkerd(kubectl: Kubectl, linkerd: str) -> tuple[LinkerdSettings | None, str | None]:
    """Linkerd's settings, from its ConfigMap, None if they are unknown; and what is refused. Raises ClusterError."""
    config = kubectl.get(kinds.CONFIG_MAPS, linkerd, "linkerd-config")
    found, faults = read_linkerd(config, linkerd) if config is not None else (None, {})
    return found, config_fault(faults)


def _ports(group: Object) -> tuple[Port, ...]:
    try:
        return parse_group(group["metadata"]["name"], mapping_in(group, "spec")).ports
    except FieldError:
        return ()  # the controller does not accept it, and condition Accepted states why


def _policies_of_groups(kubectl: Kubectl, found: ClusterSnapshot) -> list[Row]:
    try:
        return identity_rows(found.groups, kubectl.list(kinds.MESH_TLS_AUTHENTICATIONS))
    except ApiRefusal as refusal:
        if refusal.status != 404:  # 404: Linkerd's policy CRDs are not installed, so there are no policies
            raise
        return identity_rows(found.groups, [])


def find_foreign(kubectl: Kubectl, home: str) -> list[str]:
    """The objects in a namespace of machines' accounts that belong to no machine. Raises ClusterError."""
    return foreign_objects(home, kubectl.list(kinds.SERVICE_ACCOUNTS, home), kubectl.list(kinds.PODS, home))


def report_rows(workloads: Iterable[Object]) -> list[Row]:
    """Do members that are ready report that something is not perfect? They write it after "; but "."""
    found = []
    for one in workloads:
        ready = condition_of(one, READY) if GROUP_LABEL in (one["metadata"].get("labels") or {}) else None
        if ready is not None and ready.status and "; but " in ready.message:
            name = f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
            found.append(f"{name}: {ready.message.partition('; but ')[2]}")
    return [row("no member reports a problem", few(found), "run exclave status on the machine", "warning")]


def identity_rows(groups: Iterable[Object], policies: Iterable[Object]) -> list[Row]:
    """Do policies name a group's identity in a form that never matches?"""
    ends = tuple(f"/ns/{group['metadata']['namespace']}/sa/{account_of(group)}" for group in groups)
    found = [
        f"MeshTLSAuthentication {one['metadata'].get('namespace', '')}/{one['metadata']['name']}: {identity}"
        for one in policies
        for identity in mapping_in(one, "spec").get("identities") or ()
        if str(identity).startswith("spiffe://") and str(identity).endswith(ends or ("\0",))
    ]
    hint = (
        "name the ServiceAccount in identityRefs, or write NAME.NAMESPACE.serviceaccount.identity.linkerd.DOMAIN: "
        "proxies know a VM by this name, as they know a pod, and answer 403 where only the spiffe:// form is admitted"
    )
    return [row("policies name groups as they name pods", few(found), hint, "warning")]


def _checked(title: str, check: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a check, or one row with the reason why it cannot run."""
    try:
        return check()
    except ClusterError as problem:
        return [Row(title, "error", problem.message, problem.hint)]
    except MALFORMED as problem:
        return [Row(title, "error", f"an object cannot be read: {fault_text(problem)}", "report it: it is a bug")]


# Rows.


def linkerd_report(rows: Sequence[Row]) -> Object:
    """The rows in the JSON form of `linkerd check`'s extensions."""
    checks = []
    for one in rows:
        texts = {"description": one.title, "hint": one.hint, "error": one.problem, "result": one.result}
        checks.append({key: text for key, text in texts.items() if text})
    is_sound = all(one.result != "error" for one in rows)
    return {"success": is_sound, "categories": [{"categoryName": "linkerd-exclave", "checks": checks}]}


def report_text(rows: Sequence[Row], *, short: bool = False) -> str:
    """The rows as `linkerd check` prints them; `short`: only those that failed."""
    # Source: linkerd2, pkg/healthcheck/healthcheck_output.go.
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


def group_rows(
    groups: Iterable[Object], headless: Iterable[str], mismatches: Sequence[OpaqueMismatch] = ()
) -> list[Row]:
    """Are groups accepted, does a Service endanger Linkerd's controller, do Services agree on opaque ports?"""
    refused = [
        f"{group['metadata']['namespace']}/{group['metadata']['name']}: {why}"
        for group in groups
        if (why := group_refusal(group)) is not None
    ]
    services = ", ".join(sorted(headless)) or None
    crash = "a request for one workload's name in a headless Service crashes Linkerd's destination controller"
    return [
        row("every group is accepted", "; ".join(refused) or None, "kubectl exclave group describe NAME", "warning"),
        row("no headless Service selects a group", services, f"give it a cluster IP: {crash}", "warning"),
        row(
            "groups and their Services have the same opaque ports",
            "; ".join(one.problem for one in mismatches) or None,
            "; ".join(one.remedy for one in mismatches),
            "warning",
        ),
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


def issuer_rows(
    name: str, secret: Object | None, roots: Object | None, now: float, linkerd: LinkerdSettings | None = None
) -> list[Row]:
    """Is there an issuer, do proxies accept what it signs, and until when? `name` is its Secret's name."""
    title = "the issuer chains to Linkerd's trust anchors"
    hint = "set one: kubectl exclave upgrade --issuer-from, or --issuer-certificate and --issuer-key"
    if secret is None:
        return [row(title, f"there is no Secret {name}", hint)]
    try:
        anchors = read_anchors(roots or {})
        issuer = read_issuer(secret, anchors, now, linkerd)
    except ValueError as problem:
        return [row(title, f"Secret {name}: {problem}", hint)]
    left = issuer.not_after - now
    soon = f"it ends in {human_duration(left)}" if left < SHORTEST_ISSUER else None
    until = f"the issuer's certificate is valid until {rfc3339(issuer.not_after)}"
    return [
        Row(title),
        row(until, soon, f"check why it is not renewed; if nothing renews it, {hint}", "warning"),
        anchor_row(name, issuer, anchors),
    ]


def anchor_row(name: str, issuer: Issuer, anchors: str) -> Row:
    """Is the issuer an intermediate, or the trust anchor itself? `name` is its Secret's name."""
    fault = f"Secret {name} has a trust anchor's own key" if has_anchor_key(issuer, anchors) else None
    hint = (
        "sign an intermediate with it and use that one (--issuer-certificate, --issuer-key): the anchor's key can sign "
        "every identity of the mesh, and only a new trust anchor ends what it has signed"
    )
    return row("the issuer is an intermediate, not a trust anchor", fault, hint, "warning")


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
