"""`check`: checks the installation. `linkerd check` also runs it, and prints its rows among its own.

A row states a condition that must hold. Otherwise it is an error (something does not work) or a warning (it works, but
may surprise). All checks run, also after a failure; one that the admin may not read fails. Exit code: 0, or 3 after an
error. The options that `linkerd check` passes to extensions are accepted and ignored.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from exclave.admin import arguments
from exclave.admin.check.overlaps import address_rows, cluster_addresses, overlap_rows
from exclave.admin.check.proxies import proxy_rows
from exclave.admin.check.rights import (
    accounts_namespace_rows,
    controller_namespace_row,
    excess_rights_rows,
    foreign_rights_rows,
    namespace_suffix_rows,
    pending_changes,
    rights_rows,
)
from exclave.admin.check.rows import (
    EXTERNAL_WORKLOADS_CRD,
    Row,
    controller_rows,
    group_rows,
    guard_rows,
    identity_rows,
    issuer_rows,
    linkerd_report,
    member_rows,
    prerequisite_rows,
    report_rows,
    report_text,
    row,
    settings_row,
)
from exclave.admin.check.snapshot import ClusterSnapshot, find_foreign, find_linkerd, find_opaque_ports
from exclave.admin.group.checks import selects_group
from exclave.admin.kubectl import Kubectl
from exclave.admin.objects import guard_manifests
from exclave.admin.session import Session
from exclave.api import requests as kinds
from exclave.api.definitions.account_rights import foreign_to_controller
from exclave.api.definitions.admission import admission_fault
from exclave.api.fields import FieldError
from exclave.api.group import Port, parse_group
from exclave.api.issuer import read_anchors
from exclave.api.malformed import MALFORMED, fault_text, mapping_in
from exclave.api.names import ELECTION, settings_name
from exclave.api.requests import Object
from exclave.api.workload.opaque_ports import opaque_mismatches
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.host.output import print_json, print_out

NOT_SOUND = 3

LINKERD_OPTIONS = ("--api-addr", "--wait", "--verbose")

TRUST_ROOTS = "linkerd-identity-trust-roots"

SETTINGS_READ = "Linkerd's settings can be used"

SAME_REASON = "the same as above"  # an API server that is away would fill the report with one message


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `check`, and the command by which `linkerd check` finds extensions."""
    summary = "check the installation in this cluster"
    examples = ("kubectl exclave check", "# the proxies of members, too\nkubectl exclave check --proxy -n shop")
    check = arguments.add_verb(subparsers, "check", _check, summary, *examples)
    arguments.add_namespaces(check)
    check.add_argument("--pre", action="store_true", help="only the checks before an installation")
    proxy = "the members' proxies, too, as far as members report them; with -n those of one namespace"
    check.add_argument("--proxy", nargs="?", const="true", default="false", choices=("true", "false"), help=proxy)
    for option in LINKERD_OPTIONS:
        check.add_argument(option, nargs="?", help=argparse.SUPPRESS)
    arguments.add_output(check, "table", "json", "short")
    metadata = subparsers.add_parser("_extension-metadata")
    arguments.add_common(metadata)
    metadata.set_defaults(run=_extension_metadata)


def _extension_metadata(_session: Session, _options: argparse.Namespace) -> int:
    """`linkerd check` calls this in every program named linkerd-… to learn whether to run its checks."""
    print_json({"name": "linkerd-exclave", "checks": "always"})
    return 0


def _check(session: Session, options: argparse.Namespace) -> int:
    rows = list(_rows(session, options))
    if options.output == "json":
        print_json(linkerd_report(rows), indent=2)
    else:
        print_out(report_text(rows, short=options.output == "short"))
    return NOT_SOUND if any(one.result == "error" for one in rows) else 0


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
        "every group is accepted": lambda: _groups(session, found, where),
        "the settings of every group are the controller's": lambda: _settings(kubectl, found),
        "policies name groups as they name pods": lambda: _policies_of_groups(kubectl, found),
        "groups share no Service and no identity": lambda: _overlaps(kubectl, found),
        "no member has an address of the cluster": lambda: address_rows(
            kubectl.list(kinds.EXTERNAL_WORKLOADS),
            cluster_addresses(*(kubectl.list(kind) for kind in (kinds.NODES, kinds.SERVICES, kinds.ENDPOINT_SLICES))),
        ),
        "every member sends heartbeats": lambda: member_rows(kubectl.list(kinds.MEMBERS)),
        "no member reports a problem": lambda: report_rows(kubectl.list(kinds.EXTERNAL_WORKLOADS)),
        "machines have no other rights": lambda: excess_rights_rows(
            found.bindings, found.accounts_namespaces, found.wanted_by_groups
        ),
        "nobody else has rights among machines' accounts": lambda: foreign_rights_rows(
            found.groups, found.bindings, where
        ),
        "nobody else has rights in the controller's namespace": lambda: _controller_namespace(found, where),
        "namespaces of machines' accounts contain nothing else": lambda: accounts_namespace_rows(
            [one for home in found.accounts_namespaces for one in find_foreign(kubectl, home)]
        ),
    }
    if options.proxy == "true":
        checks["every member's proxy serves"] = lambda: _proxies(session, found)
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


def _controller_namespace(found: ClusterSnapshot, where: str) -> list[Row]:
    namespace = next((one for one in found.namespaces if one["metadata"]["name"] == where), None)
    if namespace is None:
        return []  # the check of the Deployment reports it
    bindings = [one for one in found.bindings if one["metadata"].get("namespace") == where]
    foreign = foreign_to_controller(bindings, where)
    return [controller_namespace_row(namespace, foreign, has_account=False, may_share=True)]


def _issuer(session: Session, found: ClusterSnapshot) -> list[Row]:
    where, name = found.installation.issuer_namespace, found.installation.issuer_secret
    roots = session.kubectl.get(kinds.CONFIG_MAPS, found.linkerd, TRUST_ROOTS)
    linkerd, _ = find_linkerd(session.kubectl, found.linkerd)
    secret = session.kubectl.get(kinds.SECRETS, where, name)
    return issuer_rows(f"{where}/{name}", secret, roots, session.now(), linkerd)


def _proxies(session: Session, found: ClusterSnapshot) -> list[Row]:
    roots = session.kubectl.get(kinds.CONFIG_MAPS, found.linkerd, TRUST_ROOTS)
    try:
        anchors = hashlib.sha256(read_anchors(roots or {}).encode()).hexdigest()
    except ValueError:
        anchors = None  # the check of the issuer reports it
    return proxy_rows(session.kubectl.list(kinds.MEMBERS, session.chosen_namespace), anchors, session.now())


def _linkerd(session: Session, found: ClusterSnapshot) -> list[Row]:
    _, refused = find_linkerd(session.kubectl, found.linkerd)
    return [row(SETTINGS_READ, refused, "set each of these keys right: linkerd upgrade, or helm upgrade")]


def _groups(session: Session, found: ClusterSnapshot, where: str) -> list[Row]:
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
    return group_rows(found.groups, headless, mismatches, where, found.linkerd)


def _settings(kubectl: Kubectl, found: ClusterSnapshot) -> list[Row]:
    places = [(group["metadata"]["namespace"], group["metadata"]["name"]) for group in found.groups]
    stored = {place: kubectl.get(kinds.CONFIG_MAPS, place[0], settings_name(place[1])) for place in places}
    there = {place: one for place, one in stored.items() if one is not None}
    return [settings_row(found.groups, there, kubectl.list(kinds.MEMBERS))]


def _overlaps(kubectl: Kubectl, found: ClusterSnapshot) -> list[Row]:
    namespaces = sorted({group["metadata"]["namespace"] for group in found.groups})
    services, pods = (
        [one for namespace in namespaces for one in kubectl.list(kind, namespace)]
        for kind in (kinds.SERVICES, kinds.PODS)
    )
    return overlap_rows(found.groups, services, pods)


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


def _checked(title: str, check: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a check, or one row with the reason why it cannot run."""
    try:
        return check()
    except ClusterError as problem:
        return [Row(title, "error", problem.message, problem.hint)]
    except MALFORMED as problem:
        return [Row(title, "error", f"an object cannot be read: {fault_text(problem)}", "report it: it is a bug")]
