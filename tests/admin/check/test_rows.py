"""The rows of `check` and the forms of its report; tests/peers runs the checks on real servers."""

import base64
import hashlib
import time

import pytest

from exclave.admin.check.rows import (
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
    settings_row,
)
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import not_after
from exclave_sandbox.pki import make_anchor
from support.issuers import ROWS
from support.mesh import Mesh, mesh

NOW = 1_800_000_000.0


SOUND = {"linkerd": True, "external_workloads": True, "namespace": "linkerd"}


def bad(rows: list[Row]) -> list[tuple[str, str]]:
    return [(one.result, one.problem) for one in rows if one.result != "success"]


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("v1.30.0", []),
        ("v1.37.2+k3s1", []),
        ("v1.29.9", [("error", "the API server is v1.29.9")]),
        ("v1.9.0", [("error", "the API server is v1.9.0")]),
        ("", [("error", "the API server is of an unknown version")]),
    ],
)
def test_a_cluster_that_is_too_old_is_refused(version: str, problem: list[tuple[str, str]]) -> None:
    assert bad(prerequisite_rows(version, **SOUND)) == problem  # type: ignore[arg-type]


def test_a_cluster_without_linkerd_or_with_an_old_one_is_refused() -> None:
    assert bad(prerequisite_rows("v1.30.0", linkerd=False, external_workloads=False, namespace="mesh")) == [
        ("error", "there is no ConfigMap linkerd-config in namespace mesh"),
        ("error", "there is no CustomResourceDefinition externalworkloads.workload.linkerd.io"),
    ]


def lease(holder: str = "pod-1", renewed: str = "2027-01-15T07:59:50.000000Z") -> dict[str, object]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed}}


def deployment(ready: int) -> dict[str, object]:
    return {"spec": {"replicas": 2}, "status": {"readyReplicas": ready}}


def test_controllers_run_and_one_leads() -> None:
    assert bad(controller_rows(deployment(2), lease(), NOW)) == []
    assert bad(controller_rows(deployment(1), lease(), NOW)) == [("warning", "1 of 2 are ready")]
    assert bad(controller_rows(None, None, NOW)) == [
        ("error", "0 of 0 are ready"),
        ("error", "there has been no leader yet"),
    ]
    assert bad(controller_rows(deployment(2), lease(renewed="2027-01-15T07:50:00.000000Z"), NOW)) == [
        ("error", "the last renewal is 600 s old")
    ]


def test_groups_members_and_services_with_problems_are_named() -> None:
    refused = {"type": "Accepted", "status": "False", "reason": "Invalid", "message": "no networks"}
    group = {"metadata": {"namespace": "shop", "name": "web"}, "status": {"conditions": [refused]}}
    assert bad(group_rows([group], ["shop/web-headless"])) == [
        ("warning", "shop/web: no networks"),
        ("warning", "shop/web-headless"),
    ]
    silent = {"type": "Live", "status": "False", "reason": "NotLive", "message": ""}
    cloned = {"type": "Cloned", "status": "True", "reason": "TwoMachines", "message": ""}
    members = [
        {"metadata": {"namespace": "shop", "name": f"web-k7q2x-{n}"}, "spec": {}, "status": {"conditions": [silent]}}
        for n in range(1, 8)
    ]
    members[0]["status"]["conditions"].append(cloned)  # type: ignore[index]
    names = ", ".join(f"shop/web-k7q2x-{n}" for n in range(1, 6))
    assert bad(member_rows(members)) == [("warning", f"{names} and 2 more"), ("warning", "shop/web-k7q2x-1")]


def issuer_secret(made: Mesh, key: str = "tls") -> dict[str, object]:
    names = ("tls.crt", "tls.key") if key == "tls" else ("crt.pem", "key.pem")
    texts = (made.issuer.pem, made.issuer.key_pem)
    return {"data": {name: base64.b64encode(text.encode()).decode() for name, text in zip(names, texts, strict=True)}}


def roots(anchor: str) -> dict[str, object]:
    return {"data": {"ca-bundle.crt": anchor}}


def test_the_issuer_exists_is_trusted_and_lasts() -> None:
    made, now = mesh(), time.time()
    for layout in ("tls", "linkerd"):
        rows = issuer_rows("exclave/exclave-issuer", issuer_secret(made, layout), roots(made.anchor.pem), now)
        assert bad(rows) == []
        assert rows[1].title == f"the issuer's certificate is valid until {rfc3339(not_after(made.issuer.certificate))}"
    assert bad(issuer_rows("exclave/exclave-issuer", None, roots(made.anchor.pem), now)) == [
        ("error", "there is no Secret exclave/exclave-issuer")
    ]
    assert bad(issuer_rows("a/b", issuer_secret(made), roots(make_anchor().pem), now)) == [
        ("error", "Secret a/b: the issuer does not lead to the trust anchors that Linkerd publishes")
    ]
    late = not_after(made.issuer.certificate) - 3 * 86400
    (warned,) = bad(issuer_rows("a/b", issuer_secret(made), roots(made.anchor.pem), late))
    assert warned == ("warning", "it ends in 3d")


def test_an_issuer_is_checked_for_the_names_of_the_mesh_and_for_its_proxies() -> None:
    for name, text in (
        ("names of another mesh", "does not permit the name 'sample.sample.serviceaccount.identity.linkerd.cluster."),
        ("P-521, with ring", "ECDSA with curve secp521r1"),
    ):
        found = ROWS[name]
        linkerd = LinkerdSettings("linkerd", "cluster.local", "cluster.local", (), found.version, "deny", "")
        ((result, problem),) = bad(issuer_rows("a/b", found.secret, roots(found.anchors), NOW, linkerd))
        assert result == "error" and problem.startswith("Secret a/b: ") and text in problem


def test_a_trust_anchor_in_the_place_of_the_issuer_is_named() -> None:
    anchor = make_anchor()
    data = {"tls.crt": anchor.pem, "tls.key": anchor.key_pem}
    secret: dict[str, object] = {"data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}}
    assert bad(issuer_rows("a/b", secret, roots(anchor.pem), time.time())) == [
        ("warning", "Secret a/b has a trust anchor's own key")
    ]


def test_a_policy_that_names_a_group_by_its_spiffe_form_is_named() -> None:
    group = {"metadata": {"namespace": "shop", "name": "web"}, "spec": {}}

    def policy(*identities: str) -> Object:
        return {"metadata": {"namespace": "apps", "name": "callers"}, "spec": {"identities": list(identities)}}

    spiffe = "spiffe://cluster.local/ns/shop/sa/web"
    assert bad(identity_rows([group], [policy("*", spiffe)])) == [
        ("warning", f"MeshTLSAuthentication apps/callers: {spiffe}")
    ]
    for identity in ("web.shop.serviceaccount.identity.linkerd.cluster.local", "spiffe://d/ns/shop/sa/other", "*"):
        assert bad(identity_rows([group], [policy(identity)])) == []
    assert bad(identity_rows([], [policy(spiffe), {"metadata": {"name": "refs"}, "spec": {}}])) == []


def test_what_a_ready_member_reports_is_named() -> None:
    def workload(message: str, status: str = "True", **labels: str) -> Object:
        ready = {"type": "Ready", "status": status, "reason": "Ready", "message": message}
        metadata = {"namespace": "shop", "name": "web-1", "labels": labels or {"exclave.dev/group": "web"}}
        return {"metadata": metadata, "status": {"conditions": [ready]}}

    loop = "the watch of members web-1: too old; 3 times in a row"
    assert bad(report_rows([workload(f"all is in place; but {loop}")])) == [("warning", f"shop/web-1: {loop}")]
    others = [workload("all is in place"), workload("x; but y", "False"), workload("x; but y", app="other")]
    assert bad(report_rows([*others, {"metadata": {"name": "new", "labels": {"exclave.dev/group": "web"}}}])) == []


def test_the_short_report_has_only_failures() -> None:
    rows = [Row("one"), *guard_rows("it is missing")]
    assert report_text(rows, short=True) == (
        "linkerd-exclave\n---------------\n× the admission policies are as installed\n    it is missing\n"
        "    to do: kubectl exclave upgrade\n\n2 checks, 1 errors, 0 warnings"
    )


def test_what_machines_and_servers_report_forges_no_check() -> None:
    forged = "no\n√ every group is accepted\x1b[K"
    assert report_text([Row("one", "error", forged, forged)]).split("\n")[2:5] == [
        "× one",
        r"    no\n√ every group is accepted\x1b[K",
        r"    to do: no\n√ every group is accepted\x1b[K",
    ]


def test_the_report_is_linkerds_json_or_text() -> None:
    rows = [Row("one"), *guard_rows("it is missing")]
    assert linkerd_report(rows) == {
        "success": False,
        "categories": [
            {
                "categoryName": "linkerd-exclave",
                "checks": [
                    {"description": "one", "result": "success"},
                    {
                        "description": "the admission policies are as installed",
                        "hint": "kubectl exclave upgrade",
                        "error": "it is missing",
                        "result": "error",
                    },
                ],
            }
        ],
    }
    assert report_text(rows) == (
        "linkerd-exclave\n---------------\n√ one\n× the admission policies are as installed\n    it is missing\n"
        "    to do: kubectl exclave upgrade\n\n2 checks, 1 errors, 0 warnings"
    )


def test_a_group_that_breaks_a_rule_is_named_also_without_a_condition() -> None:
    metadata = {"name": "web", "namespace": "shop"}
    group = {"metadata": metadata, "spec": {"networks": ["10.0.0.0/8"], "forgetAfter": "0s"}}
    assert bad(group_rows([group], [])) == [
        ("warning", "shop/web: forgetAfter: 60s to 876000h was expected, found '0s'")
    ]


def with_settings(name: str, settings: str, namespace: str = "shop") -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "status": {"settings": settings}}


WEB = {"metadata": {"name": "web", "namespace": "shop"}}
OWN, EDITED = ({"data": {"settings.json": text}} for text in ("{}", '{"anchors": "mine"}'))
DIGEST = hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    ("stored", "members", "problem"),
    [
        pytest.param(OWN, [with_settings("web-k7q2x-1", DIGEST)], "", id="those of the controller"),
        pytest.param(EDITED, [], "", id="a group without members, whose settings nobody uses"),
        pytest.param(EDITED, [with_settings("db-k7q2x-1", DIGEST)], "", id="a member of another group"),
        pytest.param(EDITED, [with_settings("web-k7q2x-1", DIGEST, "pay")], "", id="a namesake elsewhere"),
        pytest.param(
            OWN, [with_settings("web-k7q2x-1", "old"), with_settings("web-k7q2x-2", DIGEST)], "",
            id="a member that has not learned of them yet",
        ),
        pytest.param(
            EDITED, [with_settings("web-k7q2x-1", DIGEST)], "ConfigMap exclave-mesh.web in shop has been changed",
            id="those of somebody else",
        ),
        pytest.param(
            {"data": {"settings.json": 5}}, [with_settings("web-k7q2x-1", DIGEST)],
            "ConfigMap exclave-mesh.web in shop has been changed", id="no text",
        ),
        pytest.param(
            None, [with_settings("web-k7q2x-1", DIGEST)], "ConfigMap exclave-mesh.web in shop is missing", id="none",
        ),
    ],
)  # fmt: skip
def test_settings_that_somebody_else_wrote_are_named(
    stored: Object | None, members: list[Object], problem: str
) -> None:
    there = {} if stored is None else {("shop", "web"): stored}
    found = settings_row([WEB], there, members)
    assert (found.result, found.problem) == ("error" if problem else "success", problem)
