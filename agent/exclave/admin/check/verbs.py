"""`check`: checks the installation. `linkerd check` runs it, too, and prints its rows with its own.

All checks run, also after a failure; what the admin may not read is a failed row. Exit code 0 without errors, else 3.
The options that `linkerd check` passes to extensions are accepted and ignored.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import cached_property

from exclave.admin import arguments
from exclave.admin.check.rows import (
    EXTERNAL_WORKLOADS_CRD,
    ObjectIndex,
    Row,
    accounts_namespace_rows,
    controller_rows,
    excess_rights_rows,
    foreign_objects,
    group_rows,
    guard_rows,
    index_objects,
    is_accounts_namespace,
    issuer_rows,
    linkerd_report,
    member_rows,
    namespace_suffix_rows,
    pending_changes,
    prerequisite_rows,
    report_text,
    rights_rows,
)
from exclave.admin.group.checks import selects_group
from exclave.admin.kubectl import Kubectl, Objects
from exclave.admin.objects import Installation, Manifest, group_objects, guard_manifests, read_installation
from exclave.admin.session import Session
from exclave.api import requests as kinds
from exclave.api.definitions.admission import admission_fault
from exclave.api.malformed import MALFORMED, fault_text, mapping_in
from exclave.api.names import CONTROLLER, ELECTION
from exclave.api.requests import Object
from exclave.errors import ApiRefusal, ClusterError

NOT_SOUND = 3
LINKERD_OPTIONS = ("--api-addr", "--wait", "--proxy", "--verbose")
TRUST_ROOTS = "linkerd-identity-trust-roots"


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
    """`linkerd check` calls this of every program named linkerd-… to learn whether to run its checks."""
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
    """Objects of the cluster, read at their first use, once each. Raises ClusterError then."""

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
        """The choices of the installation; the defaults if there is none."""
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
        """Whether the API server serves our kinds."""
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
        """All objects that rights consist of."""
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
    yield from _checked(
        "the cluster can run exclave",
        lambda: check_prerequisites(
            session, options.linkerd_namespace or ("linkerd" if options.pre else found.linkerd)
        ),
    )
    if options.pre:
        return
    checks: dict[str, Callable[[], list[Row]]] = {
        "the admission policies are as installed": lambda: _policies(kubectl, where),
        "rights are as installed": lambda: _rights(found),
        "all controllers run": lambda: controller_rows(
            found.deployment, kubectl.get(kinds.LEASES, where, ELECTION), session.now()
        ),
        "the issuer chains to Linkerd's trust anchors": lambda: _issuer(session, found),
        "every group is accepted": lambda: _groups(session, found),
        "every member sends heartbeats": lambda: member_rows(kubectl.list(kinds.MEMBERS)),
        "machines have no other rights": lambda: excess_rights_rows(
            found.bindings, found.accounts_namespaces, found.wanted_by_groups
        ),
        "namespaces of machines' accounts contain nothing else": lambda: accounts_namespace_rows(
            [one for home in found.accounts_namespaces for one in find_foreign(kubectl, home)]
        ),
    }
    for title, check in checks.items():
        yield from _checked(title, check)


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
    return issuer_rows(f"{where}/{name}", session.kubectl.get(kinds.SECRETS, where, name), roots, session.now())


def _groups(session: Session, found: ClusterSnapshot) -> list[Row]:
    headless = [
        f"{namespace}/{service['metadata']['name']}"
        for namespace in sorted({group["metadata"]["namespace"] for group in found.groups})
        for service in session.kubectl.list(kinds.SERVICES, namespace)
        if mapping_in(service, "spec").get("clusterIP") == "None"
        and any(selects_group(service, group) for group in found.groups if group["metadata"]["namespace"] == namespace)
    ]
    return group_rows(found.groups, headless)


def find_foreign(kubectl: Kubectl, home: str) -> list[str]:
    """The objects in a namespace of machines' accounts that belong to no machine. Raises ClusterError."""
    return foreign_objects(home, kubectl.list(kinds.SERVICE_ACCOUNTS, home), kubectl.list(kinds.PODS, home))


def _checked(title: str, check: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a check, or one row with the reason why it cannot run."""
    try:
        return check()
    except ClusterError as problem:
        return [Row(title, "error", problem.message, problem.hint)]
    except MALFORMED as problem:
        return [Row(title, "error", f"an object cannot be read: {fault_text(problem)}", "report it: it is a bug")]
