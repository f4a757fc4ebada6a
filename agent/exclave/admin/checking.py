"""`check`: whether the cluster holds exclave soundly; run by `linkerd check`, too, which prints the rows among its own.

Rules: every row is told, also where an earlier one fails; what the admin may not read is a row that says so. Ends with
0 if there is no error, else with 3. Options that `linkerd check` hands on are taken, needed or not.
"""

import argparse
import json
from collections.abc import Callable, Iterator

from exclave.admin.arguments import Subparsers, add_common, add_output, add_verb
from exclave.admin.checks import (
    Row,
    as_linkerd,
    before_rows,
    controller_rows,
    group_rows,
    guard_rows,
    member_rows,
    rights_rows,
    tell,
    wanted_guard,
)
from exclave.admin.desk import Desk
from exclave.admin.objects import CONTROLLER, ELECTION, GUARD_NAMES
from exclave.cluster.requests import (
    CLUSTER_ROLE_BINDINGS,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    LEASES,
    MEMBERS,
    SERVICES,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Object,
)
from exclave.controller.guarded import guard_fault
from exclave.errors import ClusterError

NOT_SOUND = 3
HANDED_ON = ("--as", "--as-group", "--api-addr", "--wait", "--proxy", "--verbose")


def add_commands(subparsers: Subparsers) -> None:
    """Add `check` to the command line, and what Linkerd's own asks of an extension."""
    check = add_verb(
        subparsers, "check", _check, "say whether exclave stands soundly in this cluster", "kubectl exclave check"
    )
    check.add_argument("-L", "--linkerd-namespace", default="linkerd", metavar="NAME", help="where Linkerd is")
    check.add_argument("--controller-namespace", default="exclave", metavar="NAME", help="where exclave is")
    check.add_argument("--pre", action="store_true", help="only what must hold before exclave is installed")
    for option in HANDED_ON:
        check.add_argument(option, nargs="?", help=argparse.SUPPRESS)
    add_output(check, "table", "json", "short")
    metadata = subparsers.add_parser("_extension-metadata")
    add_common(metadata)
    metadata.set_defaults(run=_extension_metadata)


def _extension_metadata(_desk: Desk, _options: argparse.Namespace) -> int:
    """What `linkerd check` asks every program called linkerd-…: that it wants to be run."""
    print(json.dumps({"name": "linkerd-exclave", "checks": "always"}))
    return 0


def _check(desk: Desk, options: argparse.Namespace) -> int:
    rows = list(_rows(desk, options))
    print(json.dumps(as_linkerd(rows), indent=2) if options.output == "json" else tell(rows))
    return NOT_SOUND if any(one.result == "error" for one in rows) else 0


def _rows(desk: Desk, options: argparse.Namespace) -> Iterator[Row]:
    yield from rows_before(desk, options.linkerd_namespace)
    if options.pre:
        return
    kubectl, where = desk.kubectl, options.controller_namespace
    for told, look in (
        ("the admission policies stand as installed", lambda: guard_rows(_guard_fault(desk, where))),
        (
            "the controllers run",
            lambda: controller_rows(
                kubectl.get(DEPLOYMENTS, where, CONTROLLER), kubectl.get(LEASES, where, ELECTION), desk.now()
            ),
        ),
        ("every group is accepted", lambda: _groups(desk)),
        ("every member is heard of", lambda: member_rows(kubectl.list(MEMBERS))),
        (
            "no right that everybody has reaches machines",
            lambda: rights_rows(kubectl.list(CLUSTER_ROLE_BINDINGS)),
        ),
    ):
        yield from _told(told, look)


def rows_before(desk: Desk, linkerd: str) -> list[Row]:
    """What must hold before anything is installed. Raises ClusterError."""
    kubectl = desk.kubectl
    crd = "externalworkloads.workload.linkerd.io"
    return before_rows(
        kubectl.server_version(),
        linkerd=kubectl.get(CONFIG_MAPS, linkerd, "linkerd-config") is not None,
        external_workloads=kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, crd) is not None,
        namespace=linkerd,
    )


def _guard_fault(desk: Desk, where: str) -> str | None:
    found = [
        one
        for kind in (VALIDATING_ADMISSION_POLICIES, VALIDATING_ADMISSION_POLICY_BINDINGS)
        for name in GUARD_NAMES
        if (one := desk.kubectl.get(kind, None, name)) is not None
    ]
    return guard_fault(found, wanted_guard(where))


def _groups(desk: Desk) -> list[Row]:
    groups = desk.kubectl.list(WORKLOAD_GROUPS)
    headless = [
        f"{service['metadata']['namespace']}/{service['metadata']['name']}"
        for namespace in sorted({group["metadata"]["namespace"] for group in groups})
        for service in desk.kubectl.list(SERVICES, namespace)
        if _is_headless(service) and any(_selects(service, group) for group in groups)
    ]
    return group_rows(groups, headless)


def _is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _selects(service: Object, group: Object) -> bool:
    selector = service["spec"].get("selector") or {}
    labels = (group.get("spec") or {}).get("labels") or {}
    same = service["metadata"]["namespace"] == group["metadata"]["namespace"]
    return bool(same and selector and selector.items() <= labels.items())


def _told(told: str, look: Callable[[], list[Row]]) -> list[Row]:
    """Rows, or the one that says why they cannot be told."""
    try:
        return look()
    except ClusterError as problem:
        return [Row(told, "error", problem.message, problem.hint)]
