"""The rows of `check`: facts in, rows out. Pure.

A row states what must be true. If it is not, the row is an error (it does not work) or a warning (it works, but may
surprise), with the problem and a hint. The form is that of `linkerd check`, which also runs its extensions' checks.
Source: linkerd2, pkg/healthcheck/healthcheck_output.go.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from exclave.admin.tables import few, human_duration
from exclave.api.issuer import read_anchors, read_issuer
from exclave.api.member import conditions_of, view_member
from exclave.api.requests import Object
from exclave.kit.formats.times import epoch, rfc3339

OLDEST = (1, 30)
"""The first Kubernetes release with stable admission policies."""

EXTERNAL_WORKLOADS_CRD = "externalworkloads.workload.linkerd.io"

LEADER_TIMEOUT = 60.0
"""Seconds without a renewal of the Lease after which no controller is the leader."""

SHORTEST_ISSUER = 14 * 86400.0
"""Seconds before the issuer's end from which it is a warning."""

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
    checks = [
        {
            "description": one.title,
            **({"hint": one.hint} if one.hint else {}),
            **({"error": one.problem} if one.problem else {}),
            "result": one.result,
        }
        for one in rows
    ]
    is_sound = all(one.result != "error" for one in rows)
    return {"success": is_sound, "categories": [{"categoryName": "linkerd-exclave", "checks": checks}]}


def report_text(rows: Sequence[Row], *, short: bool = False) -> str:
    """The rows as `linkerd check` prints them; `short`: only those that failed."""
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
    return [
        row(
            "Kubernetes is 1.30 or newer",
            None if is_new else f"the API server is {version or 'of an unknown version'}",
            "upgrade the cluster: exclave needs admission policies, which are stable since 1.30",
        ),
        row(
            "Linkerd is installed",
            None if linkerd else f"there is no ConfigMap linkerd-config in namespace {namespace}",
            "install Linkerd first, or name its namespace with --linkerd-namespace",
        ),
        row(
            "Linkerd supports external workloads",
            None if external_workloads else f"there is no CustomResourceDefinition {EXTERNAL_WORKLOADS_CRD}",
            "upgrade Linkerd's CRDs to 2.15 or newer: linkerd install --crds | kubectl apply -f -",
        ),
    ]


def guard_rows(fault: str | None) -> list[Row]:
    """The admission policies; `fault` comes from `admission_drift`, as in the controller."""
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
    return [
        row("all controllers run", fault, "kubectl -n exclave describe pods", "error" if not ready else "warning"),
        row("one of them leads", None if leads else silent, "kubectl -n exclave logs -l app.kubernetes.io/name"
            "=exclave-controller"),
    ]  # fmt: skip


def group_rows(groups: Iterable[Object], headless: Iterable[str]) -> list[Row]:
    """Are groups accepted, and does a Service endanger Linkerd's controller?"""
    refused = [
        f"{group['metadata']['namespace']}/{group['metadata']['name']}: {one.message}"
        for group in groups
        for one in conditions_of(group)
        if one.type == "Accepted" and not one.status
    ]
    services = sorted(headless)
    return [
        row("every group is accepted", "; ".join(refused) or None, "kubectl exclave group describe NAME", "warning"),
        row(
            "no headless Service selects a group",
            ", ".join(services) or None,
            "give it a cluster IP: a request for one workload's name in a headless Service crashes Linkerd's "
            "destination controller",
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
