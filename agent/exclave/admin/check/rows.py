"""Whether a cluster can hold exclave, and whether what it holds is sound: facts in, rows out. Pure.

Rules: a row says what should be so; if it is not, it is an error (nothing works before it is mended) or a warning (it
works, and surprises), with what was met and what to do. The rows' form is that of `linkerd check`, which runs
extensions and prints theirs among its own. Source: linkerd2, pkg/healthcheck/healthcheck_output.go.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from exclave.admin.tables import human_duration
from exclave.api.definitions.admission import guard_objects
from exclave.api.issuer import read_anchors, read_issuer
from exclave.api.member import read_conditions, view_member
from exclave.api.requests import Object
from exclave.kit.formats.rfc3339 import epoch, rfc3339

OLDEST = (1, 30)
"""Kubernetes has had admission policies, as they are used here, since this release."""

EXTERNAL_WORKLOADS_CRD = "externalworkloads.workload.linkerd.io"

LEADER_TIMEOUT = 60.0
"""Seconds without a renewal after which no controller leads."""

SHORTEST_ISSUER = 14 * 86400.0
"""Seconds before its end at which an issuer that nobody renews is worth a word."""

Result = Literal["success", "warning", "error"]


@dataclass(frozen=True)
class Row:
    """One check and how it came out; `met` and `hint` are empty where it holds."""

    told: str
    result: Result = "success"
    met: str = ""
    hint: str = ""


def row(told: str, fault: str | None, hint: str, result: Result = "error") -> Row:
    """A check that holds if there is no fault."""
    return Row(told) if fault is None else Row(told, result, fault, hint)


def linkerd_report(rows: Sequence[Row]) -> Object:
    """The rows as `linkerd check` takes them from an extension."""
    checks = [
        {
            "description": one.told,
            **({"hint": one.hint} if one.hint else {}),
            **({"error": one.met} if one.met else {}),
            "result": one.result,
        }
        for one in rows
    ]
    is_sound = all(one.result != "error" for one in rows)
    return {"success": is_sound, "categories": [{"categoryName": "linkerd-exclave", "checks": checks}]}


def tell(rows: Sequence[Row], *, short: bool = False) -> str:
    """The rows for a person, as `linkerd check` prints its own; `short`: those that do not hold."""
    marks = {"success": "√", "warning": "‼", "error": "×"}
    lines = ["linkerd-exclave", "---------------"]
    for one in rows:
        if short and one.result == "success":
            continue
        lines.append(f"{marks[one.result]} {one.told}")
        lines += [f"    {text}" for text in (one.met, one.hint and f"to do: {one.hint}") if text]
    counts = {result: sum(one.result == result for one in rows) for result in ("error", "warning")}
    lines.append(f"\n{len(rows)} checks, {counts['error']} errors, {counts['warning']} warnings")
    return "\n".join(lines)


def prerequisite_rows(version: str, *, linkerd: bool, external_workloads: bool, namespace: str) -> list[Row]:
    """What must hold before anything is installed."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    is_new = found is not None and (int(found[1]), int(found[2])) >= OLDEST
    return [
        row(
            "Kubernetes is 1.30 or newer",
            None if is_new else f"the API server is {version or 'of an unknown version'}",
            "upgrade the cluster: admission policies, which hold machines to their names, are stable since 1.30",
        ),
        row(
            "Linkerd is installed",
            None if linkerd else f"there is no ConfigMap linkerd-config in namespace {namespace}",
            "install Linkerd first, or name its namespace: --linkerd-namespace",
        ),
        row(
            "Linkerd knows external workloads",
            None
            if external_workloads
            else "there is no CustomResourceDefinition externalworkloads.workload.linkerd.io",
            "upgrade Linkerd's CRDs to 2.15 or newer: linkerd install --crds | kubectl apply -f -",
        ),
    ]


def guard_rows(fault: str | None) -> list[Row]:
    """The admission policies; `fault` is the controller's own judgement of them."""
    return [row("the admission policies stand as installed", fault, "kubectl exclave upgrade")]


def wanted_guard(namespace: str) -> list[Object]:
    """The admission policies of this version."""
    return guard_objects(namespace)


def controller_rows(deployment: Object | None, lease: Object | None, now: float) -> list[Row]:
    """Whether a controller runs, and leads."""
    status = (deployment or {}).get("status") or {}
    ready, wanted = int(status.get("readyReplicas") or 0), ((deployment or {}).get("spec") or {}).get("replicas", 0)
    fault = None if ready and ready >= wanted else f"{ready} of {wanted} are ready"
    spec = (lease or {}).get("spec") or {}
    renewed = epoch(str(spec.get("renewTime") or ""))
    leads = renewed is not None and now - renewed < LEADER_TIMEOUT and bool(spec.get("holderIdentity"))
    silent = "nobody has led yet" if renewed is None else f"the last renewal is {now - renewed:.0f} s old"
    return [
        row("the controllers run", fault, "kubectl -n exclave describe pods", "error" if not ready else "warning"),
        row("one of them leads", None if leads else silent, "kubectl -n exclave logs -l app.kubernetes.io/name"
            "=exclave-controller"),
    ]  # fmt: skip


def group_rows(groups: Iterable[Object], headless: Iterable[str]) -> list[Row]:
    """Whether groups are accepted, and whether a Service would harm Linkerd's own controller."""
    refused = [
        f"{group['metadata']['namespace']}/{group['metadata']['name']}: {one.message}"
        for group in groups
        for one in read_conditions((group.get("status") or {}).get("conditions"))
        if one.type == "Accepted" and not one.status
    ]
    services = sorted(headless)
    return [
        row("every group is accepted", "; ".join(refused) or None, "kubectl exclave group describe NAME", "warning"),
        row(
            "no headless Service selects a group",
            ", ".join(services) or None,
            "give it a cluster IP: a request for one workload's name through a headless Service ends Linkerd's "
            "destination controller",
            "warning",
        ),
    ]


def member_rows(members: Iterable[Object]) -> list[Row]:
    """Whether members are heard of, and each from one machine."""
    views = [(one["metadata"].get("namespace", ""), view_member(one)) for one in members]
    silent = [
        f"{where}/{view.name}" for where, view in views if view.live is not None and view.live.reason == "NotLive"
    ]
    cloned = [f"{where}/{view.name}" for where, view in views if view.cloned is not None and view.cloned.status]
    return [
        row("every member is heard of", few(silent), "see the machine: exclave status", "warning"),
        row("every member is one machine", few(cloned), "kubectl exclave member describe NAME", "warning"),
    ]


def issuer_rows(name: str, secret: Object | None, roots: Object | None, now: float) -> list[Row]:
    """Whether there is an issuer, whether the mesh believes it, and until when. `name` is its Secret's."""
    told = "the issuer leads to Linkerd's trust anchors"
    anew = "put one there: kubectl exclave upgrade --issuer-from, or --issuer-certificate and --issuer-key"
    if secret is None:
        return [row(told, f"there is no Secret {name}", anew)]
    try:
        issuer = read_issuer(secret, read_anchors(roots or {}), now)
    except ValueError as problem:
        return [row(told, f"Secret {name}: {problem}", anew)]
    left = issuer.not_after - now
    soon = f"it ends in {human_duration(left)}" if left < SHORTEST_ISSUER else None
    until = f"the issuer's certificate is valid until {rfc3339(issuer.not_after)}"
    return [Row(told), row(until, soon, f"see to it that it is renewed; if nobody does it, {anew}", "warning")]


def few(names: list[str]) -> str | None:
    """The first five names, and how many there are beside them; None if there are none."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more if names else None
