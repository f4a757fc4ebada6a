"""All that the controller's account and machines' accounts may do, asked of real API servers and written down here.

RBAC's answer is compared with the list both ways: a right more fails as a right less does. Where RBAC cannot name what
is not there yet, the second policy does; its rows are attempts of whoever holds the controller's account.
"""

from typing import Any

import pytest

from exclave.api.names import GROUP_LABEL, PORTS_FINALIZER
from exclave.api.requests import NAMESPACES, path_of
from peers.kubernetes import AVAILABLE

from .attacks import MINE, OTHER, SHOP, TOKEN, WORKLOADS, Attempt, minting, patching
from .test_admission import Town, attempt, town
from .test_contract import MERGE, config_map, core, group, lease, leases, member, members

__all__ = ["town"]

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

ELSEWHERE = "default"
"""A namespace that has nothing of ours: what may be done there may be done everywhere."""

SLICES = {f"{verb} discovery.k8s.io/endpointslices" for verb in ("get", "list", "watch")}
MACHINES_OWN = {
    *(f"{verb} exclave.dev/members" for verb in ("create", "get", "watch", "patch", "delete")),
    *(f"{verb} workload.linkerd.io/externalworkloads/status" for verb in ("get", "patch")),
    *(f"{verb} coordination.k8s.io/leases" for verb in ("get", "patch")),
    "get configmaps exclave-mesh.web",
    "get configmaps exclave-mesh.db",
}
RIGHTS: dict[str, dict[str, set[str]]] = {
    "controller": {
        ELSEWHERE: {
            "get namespaces",
            *(f"{verb} exclave.dev/workloadgroups" for verb in ("get", "list", "watch", "patch")),
            "patch exclave.dev/workloadgroups/status",
            *(f"{verb} exclave.dev/members" for verb in ("get", "list", "watch", "patch", "delete")),
            "patch exclave.dev/members/status",
            *(f"{verb} workload.linkerd.io/externalworkloads" for verb in ("get", "list", "watch", "patch", "delete")),
            "patch workload.linkerd.io/externalworkloads/status",
            *(f"{verb} coordination.k8s.io/leases" for verb in ("get", "list", "watch", "patch", "delete")),
            *(
                f"{verb} admissionregistration.k8s.io/validatingadmissionpolic{end} {name}"
                for verb in ("get", "watch")
                for end in ("ies", "ybindings")
                for name in ("exclave-guard", "exclave-controller")
            ),
        },
        "exclave": {
            "create coordination.k8s.io/leases",
            *(f"{verb} coordination.k8s.io/leases exclave-controller" for verb in ("get", "update")),
            "create events.k8s.io/events",
            *(f"{verb} secrets exclave-issuer" for verb in ("get", "watch")),
            "create secrets",
            "get secrets exclave-marks",
        },
        "linkerd": {
            *SLICES,
            "list pods",
            *(
                f"{verb} configmaps {name}"
                for verb in ("get", "watch")
                for name in ("linkerd-config", "linkerd-identity-trust-roots")
            ),
        },
        "kube-system": SLICES,
        SHOP: {
            "create configmaps",
            *(
                f"{verb} configmaps exclave-mesh.{group}"
                for verb in ("get", "watch", "patch", "delete")
                for group in ("web", "db")
            ),
            "create coordination.k8s.io/leases",
            "create workload.linkerd.io/externalworkloads",
            "create events.k8s.io/events",
            "list services",
        },
        f"{SHOP}-vms": {
            *(f"{verb} serviceaccounts" for verb in ("list", "create", "delete")),
            "create serviceaccounts/token",
            "list rbac.authorization.k8s.io/rolebindings",
        },
    },
    "machine": {ELSEWHERE: set(), OTHER: set(), SHOP: MACHINES_OWN, f"{SHOP}-vms": {"create serviceaccounts/token"}},
    "joiner": {ELSEWHERE: set(), OTHER: set(), SHOP: MACHINES_OWN, f"{SHOP}-vms": {"create serviceaccounts/token"}},
}
"""`verb group/resource [name]`, beside what is allowed elsewhere and what every account of a cluster has."""

PLACES = [(who, place) for who, places in RIGHTS.items() for place in places]


def rights(town: Town, who: str, namespace: str) -> set[str]:
    """What RBAC lets somebody do in a namespace, as the API server tells them."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    answer = town.as_[who].post(
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", json={**review, "spec": {"namespace": namespace}}
    )
    status = answer.json()["status"]
    assert status["incomplete"] is False, answer.text
    found: set[str] = set()
    for rule in status["resourceRules"]:
        assert "*" not in rule["verbs"] + rule["resources"], rule
        for group_name in rule["apiGroups"]:
            for resource in rule["resources"]:
                what = f"{group_name}/{resource}" if group_name else resource
                names = [f" {name}" for name in rule.get("resourceNames") or ()] or [""]
                found |= {f"{verb} {what}{name}" for verb in rule["verbs"] for name in names}
    return found


@pytest.mark.parametrize(("who", "place"), PLACES, ids=[f"{who} in {place}" for who, place in PLACES])
def test_an_account_may_do_what_is_written_and_nothing_else(town: Town, who: str, place: str) -> None:
    if "bystander" not in town.as_:
        town.enter("bystander", ELSEWHERE, "default")
    everybodys = rights(town, "bystander", ELSEWHERE)
    allowed = rights(town, who, place) - everybodys
    everywhere = RIGHTS[who][ELSEWHERE]
    assert allowed == RIGHTS[who][place] | everywhere


def workload(name: str, **metadata: Any) -> dict[str, Any]:
    tls = {"identity": "spiffe://x", "serverName": "web"}
    return {
        "apiVersion": WORKLOADS,
        "kind": "ExternalWorkload",
        "metadata": {"name": name, **metadata},
        "spec": {"meshTLS": tls},
    }


WORKLOADS_OF_SHOP = group(WORKLOADS, SHOP, "externalworkloads")
THEIRS = group(WORKLOADS, SHOP, "externalworkloads", "pgsql-prod1-1")
ELECTED = {"holderIdentity": "somebody", "leaseDurationSeconds": 15}
OWN_LEASES = "the controller changes no Lease but labels of machines' Leases, and that of its own election"
OWN_WORKLOADS = "the controller touches no ExternalWorkload but those of groups"
OWN_ACCOUNTS = "the controller makes accounts of machines only, and removes only theirs and those of join tokens"


def account(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}


ATTEMPTS: dict[str, tuple[Attempt, str]] = {
    "somebody's election, in a namespace of a group": (("DELETE", leases(SHOP, "operator"), None), OWN_LEASES),
    "somebody's election that is named as a machine": (("DELETE", leases(SHOP, "lead-abcde-1"), None), OWN_LEASES),
    "somebody's election: its holder": (patching(leases(SHOP, "operator"), spec={"holderIdentity": "me"}), OWN_LEASES),
    "somebody's election that is named as a machine: its labels": (
        patching(leases(SHOP, "lead-abcde-1"), metadata={"labels": {GROUP_LABEL: "lead"}}), OWN_LEASES,
    ),
    "the cluster's own election: its labels": (
        patching(leases("kube-system", "kube-controller-manager"), metadata={"labels": {"a": "b"}}), OWN_LEASES,
    ),
    "a machine's heartbeat": (
        patching(leases(SHOP, f"web-{TOKEN}-1"), spec={"renewTime": "2031-01-01T00:00:00.000000Z"}), OWN_LEASES,
    ),
    "the cluster's own election": (("DELETE", leases("kube-system", "kube-controller-manager"), None), OWN_LEASES),
    "a Lease of another name": (("POST", leases(SHOP), lease("another")), OWN_LEASES),
    "another Lease of its own namespace": (("POST", leases("exclave"), lease(f"web-{TOKEN}-1")), OWN_LEASES),
    "a Lease elsewhere": (("POST", leases("kube-system"), lease(f"web-{TOKEN}-7")), "cannot create"),
    "somebody's ExternalWorkload": (("DELETE", THEIRS, None), OWN_WORKLOADS),
    "somebody's ExternalWorkload: its address": (
        patching(THEIRS, spec={"workloadIPs": [{"ip": "10.0.0.1"}]}), OWN_WORKLOADS,
    ),
    "somebody's ExternalWorkload, made its own first": (
        patching(THEIRS, metadata={"labels": {GROUP_LABEL: "web"}}), OWN_WORKLOADS,
    ),
    "somebody's ExternalWorkload: its readiness": (
        patching(f"{THEIRS}/status", status={"conditions": []}), OWN_WORKLOADS,
    ),
    "an ExternalWorkload of no group": (("POST", WORKLOADS_OF_SHOP, workload("web-zzzzz-1")), OWN_WORKLOADS),
    "an ExternalWorkload of another name": (
        ("POST", WORKLOADS_OF_SHOP, workload("front", labels={GROUP_LABEL: "web"})), OWN_WORKLOADS,
    ),
    "an ExternalWorkload elsewhere": (
        ("POST", group(WORKLOADS, "linkerd", "externalworkloads"), workload(f"web-{TOKEN}-1")), "cannot create",
    ),
    "a machine's readiness": (
        patching(
            f"{WORKLOADS_OF_SHOP}/web-{TOKEN}-9/status",
            status={"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]},
        ),
        "the controller calls no machine ready",
    ),
    "a ConfigMap of another name": (
        ("POST", core(SHOP, "configmaps"), config_map("app")), "the controller writes no ConfigMap but the settings",
    ),
    "somebody's ConfigMap": (patching(core(SHOP, "configmaps", "kube-root-ca.crt"), data={"a": "b"}), "cannot patch"),
    "a ConfigMap elsewhere": (("POST", core("linkerd", "configmaps"), config_map("exclave-mesh.web")), "cannot create"),
    "an account that linkerd-identity would certify": (
        ("POST", core(f"{SHOP}-vms", "serviceaccounts"), account("web")), OWN_ACCOUNTS,
    ),
    "an account of a join token": (
        ("POST", core(f"{SHOP}-vms", "serviceaccounts"), account("web.join.zzzzz-9")), OWN_ACCOUNTS,
    ),
    "somebody's account among machines'": (
        ("DELETE", core(f"{SHOP}-vms", "serviceaccounts", "default"), None), OWN_ACCOUNTS,
    ),
    "a token of an account of another shape": (minting("web.vm"), "the controller mints tokens of machines only"),
    "a label of a group": (
        patching(group("exclave.dev/v1alpha1", SHOP, "workloadgroups", "web"), metadata={"labels": {"a": "b"}}),
        "the controller changes no spec of a group or a member, and no label or annotation",
    ),
    "a group": (("DELETE", group("exclave.dev/v1alpha1", SHOP, "workloadgroups", "web"), None), "cannot delete"),
    "all members at once": (("DELETE", members(SHOP), None), "cannot deletecollection"),
    "its own rights, by a binding": (
        (
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": "more"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": "exclave-controller", "namespace": "exclave"}],
            },
        ),
        "cannot create",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def neighbourhood(town: Town) -> Town:
    """Beside what is ours, what is others': an election, an ExternalWorkload of a name that could be a machine's."""
    for name in ("operator", "lead-abcde-1"):
        town.put({**lease(name), "spec": ELECTED}, leases(SHOP))
    town.put({**lease("kube-controller-manager"), "spec": ELECTED}, leases("kube-system"))
    town.put(workload("pgsql-prod1-1"), WORKLOADS_OF_SHOP)
    town.put(workload(f"web-{TOKEN}-9", labels={GROUP_LABEL: "web"}), WORKLOADS_OF_SHOP)
    return town


@pytest.mark.parametrize(("what", "words"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_the_controllers_account_is_refused(neighbourhood: Town, what: Attempt, words: str) -> None:
    answer = attempt(neighbourhood.as_["controller"], what)
    assert answer.status_code in (403, 422), answer.text
    assert words in answer.json()["message"]


def test_the_controllers_account_makes_and_undoes_what_a_machine_needs(neighbourhood: Town) -> None:
    town, controller = neighbourhood, neighbourhood.as_["controller"]
    name, vms = "web-ccccc-3", core(f"{SHOP}-vms", "serviceaccounts")
    web = town.admin.get(group("exclave.dev/v1alpha1", SHOP, "workloadgroups", "web")).json()
    owner = {"apiVersion": web["apiVersion"], "kind": web["kind"], "name": "web", "uid": web["metadata"]["uid"]}
    marked = workload(name, labels={GROUP_LABEL: "web"}, finalizers=[PORTS_FINALIZER], ownerReferences=[owner])
    place = f"{WORKLOADS_OF_SHOP}/{name}"
    not_ready = {"type": "Ready", "status": "False", "reason": "Evicted", "message": ""}
    for what in (
        ("POST", vms, account("web.vm.ccccc-3")),
        ("POST", leases(SHOP), {**lease(name), "spec": {}}),
        patching(leases(SHOP, name), metadata={"labels": {GROUP_LABEL: "web"}}),  # as those of earlier versions need it
        ("POST", WORKLOADS_OF_SHOP, marked),
        patching(place, spec={"ports": [{"port": 8080, "protocol": "TCP"}]}),
        patching(f"{place}/status", status={"conditions": [not_ready]}),
        patching(place, metadata={"labels": {GROUP_LABEL: None}, "finalizers": None}),  # as others may have left it
        patching(place, metadata={"labels": {GROUP_LABEL: "web"}, "finalizers": [PORTS_FINALIZER]}),
        ("POST", core(SHOP, "configmaps"), config_map("exclave-mesh.db")),
        patching(core(SHOP, "configmaps", "exclave-mesh.db"), data={"settings.json": "{}"}),
        ("DELETE", place, None),
        patching(place, metadata={"finalizers": None}),
        ("DELETE", leases(SHOP, name), None),
        ("DELETE", f"{vms}/web.vm.ccccc-3", None),
    ):
        answer = attempt(controller, what)
        assert answer.status_code in (200, 201), (what, answer.text)
    for account_name in ("web.join.ccccc-1", "web.rejoin.ccccc-1"):
        town.put(account(account_name), vms)
        assert controller.delete(f"{vms}/{account_name}").status_code == 200


def test_whoever_has_a_namespace_that_merely_ends_as_ours_do_works_on(town: Town) -> None:
    """A stranger's `tools-vms`: elections and tokens there are theirs; our own kinds are not."""
    town.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tools-vms"}}, "/api/v1/namespaces")
    town.put(account("operator"), core("tools-vms", "serviceaccounts"))
    rules = [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
        {"apiGroups": ["exclave.dev"], "resources": ["members"], "verbs": ["create"]},
    ]
    for where in ("tools-vms", SHOP):
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "operator"}}
        town.put({**rbac, "kind": "Role", "rules": rules}, group("rbac.authorization.k8s.io/v1", where, "roles"))
        town.put(
            {
                **rbac,
                "kind": "RoleBinding",
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
                "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "tools-vms"}],
            },
            group("rbac.authorization.k8s.io/v1", where, "rolebindings"),
        )
    town.enter("operator", "tools-vms", "operator")
    operator = town.as_["operator"]
    for what in (
        ("POST", leases("tools-vms"), lease("operator")),
        patching(leases("tools-vms", "operator"), spec=ELECTED, metadata={"labels": {"a": "b"}}),
        ("POST", leases(SHOP), lease("tools")),
        minting("operator", "tools-vms"),
    ):
        assert attempt(operator, what).status_code in (200, 201), what
    answer = operator.post(members(SHOP), json=member(f"web-{TOKEN}-2"))
    assert "an account in this namespace is named <group>.join.<id>-<uses>" in answer.json()["message"]


def test_the_label_of_one_namespace_of_the_two_is_enough_for_the_guard(town: Town) -> None:
    """Whoever may label a namespace cannot free an odd account from the guard in the other one."""
    shop = path_of(NAMESPACES, None, SHOP)
    misshapen = town.as_["misshapen"]
    town.admin.patch(shop, content='{"metadata":{"labels":{"exclave.dev/accounts":null}}}', headers=MERGE)
    try:
        refused = attempt(misshapen, minting(f"web.vm.{TOKEN}-1"))
        assert "an account in this namespace is named" in refused.json()["message"]
        machine = attempt(town.as_["machine"], patching(MINE, metadata={"labels": {"a": "b"}}))
        assert "a machine changes no metadata" in machine.json()["message"]
    finally:
        label = f'{{"metadata":{{"labels":{{"exclave.dev/accounts":"{SHOP}-vms"}}}}}}'
        town.admin.patch(shop, content=label, headers=MERGE)
