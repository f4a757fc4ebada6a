"""The interface between `linkerd check` and an extension; tests/peers runs the checks on real servers."""

import base64
import copy
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.admin.check.verbs import (
    Row,
    _rows,
    accounts_namespace_rows,
    controller_rows,
    describe_change,
    excess_rights_rows,
    foreign_objects,
    foreign_rights_rows,
    group_rows,
    guard_rows,
    identity_rows,
    index_objects,
    issuer_rows,
    linkerd_report,
    member_rows,
    namespace_suffix_rows,
    pending_changes,
    prerequisite_rows,
    report_rows,
    report_text,
    rights_rows,
)
from exclave.admin.objects import Installation, group_objects
from exclave.api.requests import ROLE_BINDINGS, Object
from exclave.api.settings import LinkerdSettings
from exclave.errors import ClusterError, Fault
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import not_after
from exclave_sandbox.pki import make_anchor
from support.admin import Admin
from support.issuers import ROWS
from support.mesh import Mesh, mesh


def test_linkerd_check_learns_to_run_the_checks(tmp_path: Path) -> None:
    typed = Admin(tmp_path / "none", "linkerd-exclave").type("_extension-metadata")
    assert typed.code == 0
    assert json.loads(typed.out) == {"name": "linkerd-exclave", "checks": "always"}


def test_every_option_of_linkerd_check_is_accepted(admin: Admin) -> None:
    handed_on = ["--as=x", "--as-group=[]", "--api-addr=a:1", "--wait=5m", "--proxy=false", "--verbose=false"]
    typed = admin.type("check", *handed_on, "--linkerd-namespace=linkerd", "--output=json")
    assert "unrecognized" not in typed.err
    assert typed.code != 2


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


class AwayKubectl:
    """A kubectl whose API server does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise ClusterError(Fault.UNREACHABLE, "no API server answered", "wait")


def test_an_error_of_all_checks_is_printed_once() -> None:
    options = SimpleNamespace(controller_namespace="exclave", linkerd_namespace=None, pre=False)
    session = SimpleNamespace(kubectl=AwayKubectl(), now=time.time)
    first, *rest = _rows(session, options)  # type: ignore[arg-type]
    assert (first.problem, first.hint) == ("no API server answered", "wait")
    assert len(rest) == 11
    assert {(one.result, one.problem, one.hint) for one in rest} == {("error", "the same as above", "")}


def test_the_short_report_has_only_failures() -> None:
    rows = [Row("one"), *guard_rows("it is missing")]
    assert report_text(rows, short=True) == (
        "linkerd-exclave\n---------------\n× the admission policies are as installed\n    it is missing\n"
        "    to do: kubectl exclave upgrade\n\n2 checks, 1 errors, 0 warnings"
    )


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


SHOP = group_objects("shop", "web", {"networks": ["10.0.0.0/8"]}, "exclave")[:-1]
STANDS = index_objects([one.body for one in SHOP])


def changed(kind: str, namespace: str, name: str, **fields: Any) -> dict[tuple[str, str, str], Object]:
    found = copy.deepcopy(STANDS)
    found[kind, namespace, name] |= fields
    return found


def test_rights_as_created_are_no_fault() -> None:
    assert pending_changes(SHOP, STANDS) == []
    assert bad(rights_rows([], [])) == []


RULE = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
EDITED: dict[str, tuple[dict[tuple[str, str, str], Object], list[str]]] = {
    "a Role with an additional rule": (
        changed("Role", "shop", "exclave-machines", rules=[*STANDS["Role", "shop", "exclave-machines"]["rules"], RULE]),
        ["Role exclave-machines in shop has been changed"],
    ),
    "a Role without a rule": (
        changed("Role", "shop-vms", "exclave-machines", rules=[]),
        ["Role exclave-machines in shop-vms has been changed"],
    ),
    "a binding with another subject": (
        changed("RoleBinding", "shop-vms", "exclave-controller", subjects=[]),
        ["RoleBinding exclave-controller in shop-vms has been changed"],
    ),
    "a namespace without its label": (
        changed("Namespace", "", "shop-vms", metadata={"name": "shop-vms"}),
        ["Namespace shop-vms has been changed"],
    ),
    "a Role that is gone": (
        {key: one for key, one in STANDS.items() if key != ("Role", "shop", "exclave-publisher.web")},
        ["Role exclave-publisher.web in shop is missing"],
    ),
    "the mesh's account that is gone": (
        {key: one for key, one in STANDS.items() if key != ("ServiceAccount", "shop", "web")},
        ["ServiceAccount web in shop is missing"],
    ),
}


@pytest.mark.parametrize(("found", "words"), EDITED.values(), ids=EDITED)
def test_edited_rights_are_named(found: dict[tuple[str, str, str], Object], words: list[str]) -> None:
    steps = pending_changes(SHOP, found)
    assert [describe_change(step) for step in steps] == words
    assert bad(rights_rows([], steps)) == [("error", words[0])]


def test_a_fault_of_a_shared_object_is_listed_once() -> None:
    steps = pending_changes([*SHOP, *SHOP], changed("Role", "shop-vms", "exclave-machines", rules=[]))
    assert bad(rights_rows([], steps)) == [("error", "Role exclave-machines in shop-vms has been changed")]


def test_the_controllers_rights_have_a_row_of_their_own() -> None:
    rights = Installation().rights
    stands = index_objects([copy.deepcopy(one.body) for one in rights])
    assert pending_changes(rights, stands) == []
    stands["ClusterRole", "", "exclave-controller"]["rules"].append(RULE)
    rows = rights_rows(pending_changes(rights, stands), [])
    assert bad(rows) == [("error", "ClusterRole exclave-controller has been changed")]
    assert rows[0].title == "the controller's rights are as installed"


def binding(name: str, role: str, *subjects: dict[str, str], namespace: str | None = None) -> Object:
    where = {} if namespace is None else {"namespace": namespace}
    return {
        "kind": "ClusterRoleBinding" if namespace is None else "RoleBinding",
        "metadata": {"name": name, **where},
        "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": list(subjects),
    }


def group(name: str) -> dict[str, str]:
    return {"kind": "Group", "name": name}


ROBOT = {"kind": "ServiceAccount", "name": "web.vm.k7q2x-1", "namespace": "shop-vms"}
REACHING = {
    "a public role of every cluster for all users": (
        binding("discovery", "system:discovery", group("system:authenticated")), None,
    ),
    "a public role of every cluster for all accounts": (
        binding("issuer", "system:service-account-issuer-discovery", group("system:serviceaccounts")), None,
    ),
    "an application's own": (
        binding("app", "edit", {"kind": "ServiceAccount", "name": "app", "namespace": "shop"}, namespace="shop"), None,
    ),
    "another namespace's accounts": (binding("ci", "edit", group("system:serviceaccounts:ci"), namespace="shop"), None),
    "our own": (SHOP[4].body, None),
    "every account, everywhere": (
        binding("handy", "view", group("system:serviceaccounts")), "ClusterRoleBinding handy: view",
    ),
    "everybody, in one namespace": (
        binding("handy", "edit", group("system:authenticated"), namespace="shop"), "RoleBinding handy in shop: edit",
    ),
    "machines' accounts, as a group": (
        binding("more", "edit", group("system:serviceaccounts:shop-vms"), namespace="shop"),
        "RoleBinding more in shop: edit",
    ),
    "one machine's account": (binding("one", "edit", ROBOT, namespace="lab"), "RoleBinding one in lab: edit"),
    "one machine's account by its user name": (
        binding("one", "edit", {"kind": "User", "name": "system:serviceaccount:shop-vms:web.vm.k7q2x-1"}),
        "ClusterRoleBinding one: edit",
    ),
    "a name of ours in a namespace where it is not": (
        binding("exclave-machines", "edit", group("system:serviceaccounts:shop-vms"), namespace="lab"),
        "RoleBinding exclave-machines in lab: edit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "words"), REACHING.values(), ids=REACHING)
def test_a_right_that_reaches_machines_is_named(found: Object, words: str | None) -> None:
    assert bad(excess_rights_rows([found], ["shop-vms"], SHOP)) == ([] if words is None else [("warning", words)])


def test_a_group_that_breaks_a_rule_is_named_also_without_a_condition() -> None:
    metadata = {"name": "web", "namespace": "shop"}
    group = {"metadata": metadata, "spec": {"networks": ["10.0.0.0/8"], "forgetAfter": "0s"}}
    assert bad(group_rows([group], [])) == [
        ("warning", "shop/web: forgetAfter: 60s to 876000h was expected, found '0s'")
    ]


def test_rights_of_others_among_machines_accounts_are_an_error_until_an_admin_accepts_them() -> None:
    eve = {"kind": "User", "name": "eve"}
    team = {
        "kind": "RoleBinding", "metadata": {"name": "team", "namespace": "shop-vms"},
        "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [eve],
    }  # fmt: skip
    elsewhere = [{**team, "metadata": {"name": "team", "namespace": "shop"}}, {**team, "kind": "ClusterRoleBinding"}]
    ours = [one.body for one in group_objects("shop", "web", {}, "exclave") if one.resource is ROLE_BINDINGS]
    web = {"metadata": {"name": "web", "namespace": "shop"}}
    assert bad(foreign_rights_rows([web], [*ours, *elsewhere], "exclave")) == []
    words = "group shop/web: RoleBinding team (ClusterRole admin): User eve"
    assert bad(foreign_rights_rows([web], [*ours, team], "exclave")) == [("error", words)]
    web["metadata"]["annotations"] = {"exclave.dev/adopted": "team"}  # type: ignore[assignment]
    assert bad(foreign_rights_rows([web], [*ours, team], "exclave")) == []


def test_foreign_namespaces_with_our_suffix_are_named() -> None:
    ours = {"metadata": {"name": "shop-vms", "labels": {"exclave.dev/machines": "shop"}}}
    assert bad(namespace_suffix_rows([ours, {"metadata": {"name": "shop"}}])) == []
    assert bad(namespace_suffix_rows([ours, {"metadata": {"name": "tools-vms"}}])) == [("warning", "tools-vms")]


def test_foreign_objects_beside_machines_accounts_are_named() -> None:
    names = ("default", "web.vm.k7q2x-1", "web.join.k7q2x-20", "web.rejoin.k7q2x-1")
    accounts = [{"metadata": {"name": name}} for name in names]
    assert foreign_objects("shop-vms", accounts, []) == []
    odd = foreign_objects(
        "shop-vms", [*accounts, {"metadata": {"name": "web.vm"}}], [{"metadata": {"name": "operator-1"}}]
    )
    assert bad(accounts_namespace_rows(odd)) == [
        ("warning", "Pod operator-1 in shop-vms, ServiceAccount web.vm in shop-vms")
    ]
