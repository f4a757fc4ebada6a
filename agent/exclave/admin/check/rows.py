"""The rows of `check`: pure functions from objects to rows, and the two forms of the report."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from exclave.admin.group.checks import group_refusal
from exclave.admin.tables import few, human_duration
from exclave.api.group import account_of
from exclave.api.issuer import Issuer, has_anchor_key, read_anchors, read_issuer
from exclave.api.malformed import mapping_in
from exclave.api.member import READY, condition_of, view_member
from exclave.api.names import GROUP_LABEL, SETTINGS_KEY, group_of_member, settings_name
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings, digest
from exclave.api.workload.opaque_ports import OpaqueMismatch
from exclave.kit.formats.times import epoch, rfc3339
from exclave.kit.formats.visible_text import VisibleText, join_lines, with_head

OLDEST = (1, 30)  # the first Kubernetes release with stable admission policies

EXTERNAL_WORKLOADS_CRD = "externalworkloads.workload.linkerd.io"
LEADER_TIMEOUT = 60.0  # seconds without a renewal of the Lease after which there is no leader
SHORTEST_ISSUER = 14 * 86400.0  # seconds before the issuer's end at which a warning starts

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


def linkerd_report(rows: Sequence[Row]) -> Object:
    """The rows in the JSON form of `linkerd check`'s extensions."""
    checks = []
    for one in rows:
        texts = {"description": one.title, "hint": one.hint, "error": one.problem, "result": one.result}
        checks.append({key: text for key, text in texts.items() if text})
    is_sound = all(one.result != "error" for one in rows)
    return {"success": is_sound, "categories": [{"categoryName": "linkerd-exclave", "checks": checks}]}


def report_text(rows: Sequence[Row], *, short: bool = False) -> VisibleText:
    """The rows as `linkerd check` prints them; `short`: only those that failed."""
    # Source: linkerd2, pkg/healthcheck/healthcheck_output.go.
    marks = {"success": "√", "warning": "‼", "error": "×"}
    lines = ["linkerd-exclave", "---------------"]
    for one in rows:
        if short and one.result == "success":
            continue
        lines.append(f"{marks[one.result]} {one.title}")
        lines += [with_head("    ", text) for text in (one.problem, one.hint and f"to do: {one.hint}") if text]
    counts = {result: sum(one.result == result for one in rows) for result in ("error", "warning")}
    lines += ["", f"{len(rows)} checks, {counts['error']} errors, {counts['warning']} warnings"]
    return join_lines(lines)


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
    groups: Iterable[Object],
    headless: Iterable[str],
    mismatches: Sequence[OpaqueMismatch] = (),
    controller_namespace: str = "exclave",
    linkerd_namespace: str = "linkerd",
) -> list[Row]:
    """Are groups accepted, does a Service endanger Linkerd's controller, do Services agree on opaque ports?"""
    refused = [
        f"{group['metadata']['namespace']}/{group['metadata']['name']}: {why}"
        for group in groups
        if (why := group_refusal(group, controller_namespace, linkerd_namespace)) is not None
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


def settings_row(
    groups: Iterable[Object], config_maps: Mapping[tuple[str, str], Object], members: Sequence[Object]
) -> Row:
    """Are the settings in each group's ConfigMap those that the controller has written? Members use no others.

    `config_maps` by the group's namespace and name.
    """
    found = []
    for group in groups:
        where, name = group["metadata"]["namespace"], group["metadata"]["name"]
        statuses = {
            str(mapping_in(one, "status").get("settings") or "")
            for one in members
            if (one["metadata"].get("namespace"), group_of_member(one["metadata"]["name"])) == (where, name)
        } - {""}
        text = mapping_in(config_maps.get((where, name)), "data").get(SETTINGS_KEY)
        if statuses and (not isinstance(text, str) or digest(text) not in statuses):
            found.append(f"ConfigMap {settings_name(name)} in {where} {'has been changed' if text else 'is missing'}")
    return row("the settings of every group are the controller's", few(found), "check whether the controller runs")


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
