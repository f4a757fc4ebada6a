"""Each misconfiguration that `check` finds: what is wrong, which row states it, with which words, and the exit code.

On a real API server, with the real kubectl. No controller runs (its status and its Lease are written by hand), so each
is found without one. The rows of conditions that only a controller or a machine writes are in
`admin/check/test_rows.py`.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from exclave.api.names import CONTROLLER, ELECTION
from exclave.api.requests import (
    CLUSTER_ROLES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
    path_of,
)
from exclave.kit.formats.times import rfc3339
from exclave_sandbox.pki import make_anchor, make_issuer
from support.store import member

from .installation import NETWORK, Cluster, cluster_of
from .kubernetes import Kubernetes
from .test_installing import installed

PLACE = "yonder"  # the namespace of the group
RBAC = "rbac.authorization.k8s.io"
EVE = {"apiGroup": RBAC, "kind": "User", "name": "eve"}
EDIT = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "edit"}
WIDER = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]

Undo = Callable[[], object]
Break = Callable[[Cluster], Undo]


@pytest.fixture(scope="module")
def standing(own_kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """exclave as it was installed, with one group and one member."""
    with cluster_of(own_kubernetes, tmp_path_factory.mktemp("standing")) as cluster, installed(cluster):
        typed = cluster.admin.type("group", "create", "web", "-n", PLACE, "--label", "app=web", *NETWORK)
        assert typed.code == 0, typed.err
        replicas = {"replicas": 2, "readyReplicas": 2, "availableReplicas": 2}
        cluster.merge(f"{path_of(DEPLOYMENTS, 'exclave', CONTROLLER)}/status", {"status": replicas})
        spec = {"holderIdentity": "nobody", "renewTime": rfc3339(time.time() + 86400).replace("Z", ".000000Z")}
        cluster.admin.kubectl.create(LEASES, "exclave", {"metadata": {"name": ELECTION}, "spec": spec})
        yield cluster
        for namespace in (PLACE, f"{PLACE}-vms"):
            cluster.admin.kubectl.delete(NAMESPACES, None, namespace)


def making(resource: Resource, namespace: str | None, name: str, **body: Any) -> Break:
    """Somebody makes an object."""

    def make(cluster: Cluster) -> Undo:
        kubectl, metadata = cluster.admin.kubectl, {"name": name, **body.get("metadata", {})}
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        kubectl.create(resource, namespace, {**kind, **body, "metadata": metadata})
        return lambda: kubectl.delete(resource, namespace, name)

    return make


def changing(resource: Resource, namespace: str | None, name: str, change: Object) -> Break:
    """Somebody changes an object."""

    def patch(cluster: Cluster) -> Undo:
        kubectl = cluster.admin.kubectl
        found = kubectl.get(resource, namespace, name)
        assert found is not None
        back = {key: found[key] for key in change if key != "metadata"}
        if "metadata" in change:
            back["metadata"] = {"labels": found["metadata"]["labels"]}
        kubectl.patch(resource, namespace, name, change)
        return lambda: kubectl.patch(resource, namespace, name, back)

    return patch


def removing(resource: Resource, namespace: str | None, name: str) -> Break:
    """Somebody deletes an object."""

    def delete(cluster: Cluster) -> Undo:
        kubectl = cluster.admin.kubectl
        found = kubectl.get(resource, namespace, name)
        assert found is not None
        kubectl.delete(resource, namespace, name)
        kept = {key: found["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")}
        body = {key: value for key, value in found.items() if key != "status"}
        return lambda: kubectl.create(resource, namespace, {**body, "metadata": {k: v for k, v in kept.items() if v}})

    return delete


def binding(namespace: str, name: str = "ops") -> Break:
    return making(ROLE_BINDINGS, namespace, name, roleRef=EDIT, subjects=[EVE])


def grouped(name: str, **spec: Any) -> Break:
    return making(WORKLOAD_GROUPS, PLACE, name, spec={"networks": ["10.9.0.0/16"], **spec})


def linkerd_value(**values: Any) -> Break:
    """Linkerd's settings, with other values."""

    def change(cluster: Cluster) -> Undo:
        kubectl = cluster.admin.kubectl
        found = kubectl.get(CONFIG_MAPS, "linkerd", "linkerd-config")
        assert found is not None
        text = found["data"]["values"]
        changed = yaml.safe_dump(yaml.safe_load(text) | values)
        kubectl.patch(CONFIG_MAPS, "linkerd", "linkerd-config", {"data": {"values": changed}})
        return lambda: kubectl.patch(CONFIG_MAPS, "linkerd", "linkerd-config", {"data": {"values": text}})

    return change


def another_issuer(cluster: Cluster) -> Undo:
    kubectl = cluster.admin.kubectl
    found = kubectl.get(SECRETS, "exclave", "exclave-issuer")
    assert found is not None
    made = make_issuer(make_anchor())
    texts = {"tls.crt": made.pem, "tls.key": made.key_pem}
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    kubectl.patch(SECRETS, "exclave", "exclave-issuer", {"data": data})
    return lambda: kubectl.patch(SECRETS, "exclave", "exclave-issuer", {"data": found["data"]})


def edited_settings(cluster: Cluster) -> Undo:
    """A member has the controller's settings, and the ConfigMap has others."""
    kubectl = cluster.admin.kubectl
    body = member("web-k7q2x-1")
    kubectl.create(MEMBERS, PLACE, body | {"metadata": {"name": "web-k7q2x-1", "namespace": PLACE}})
    cluster.merge(f"{path_of(MEMBERS, PLACE, 'web-k7q2x-1')}/status", {"status": {"settings": "0" * 64}})
    undo = making(CONFIG_MAPS, PLACE, "exclave-mesh.web", data={"settings.json": '{"anchors":"mine"}'})(cluster)

    def back() -> None:
        undo()
        kubectl.delete(MEMBERS, PLACE, "web-k7q2x-1")

    return back


def occupied(cluster: Cluster) -> Undo:
    """A member, in the cluster by an earlier version, with the address of the API server's Service."""
    labels, tls = {"exclave.dev/group": "web"}, {"identity": "spiffe://x", "serverName": "x"}
    spec = {"meshTLS": tls, "workloadIPs": [{"ip": "10.96.0.7"}]}
    front = {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}
    undo = (
        making(SERVICES, "default", "front", spec=front)(cluster),
        making(EXTERNAL_WORKLOADS, PLACE, "web-k7q2x-1", metadata={"labels": labels}, spec=spec)(cluster),
    )
    return lambda: [one() for one in undo]


def pods_beside(cluster: Cluster) -> Undo:
    """A Service that selects pods and the group."""
    container = {"name": "a", "image": "registry.example/a"}
    undo = (
        making(SERVICES, PLACE, "front", spec={"selector": {"app": "web"}, "ports": [{"port": 8080}]})(cluster),
        making(
            PODS, PLACE, "a",
            metadata={"labels": {"app": "web"}},
            spec={"containers": [container], "serviceAccountName": "web", "automountServiceAccountToken": False},
        )(cluster),
    )  # fmt: skip

    def back() -> None:
        cluster.client.delete(path_of(PODS, PLACE, "a"), params={"gracePeriodSeconds": "0"})
        undo[0]()

    return back


class Wrong(NamedTuple):
    """Who breaks it, the row, how it comes out, and the words in it. `code` follows from the result unless given."""

    broken: Break
    title: str
    result: str
    words: str
    code: int | None = None


GROUPS = "every group is accepted"
GROUP_RIGHTS = "every group's rights are as created"
OUR_RIGHTS = "the controller's rights are as installed"
POLICIES = "the admission policies are as installed"
LINKERDS = "Linkerd's settings can be used"
ISSUER = "the issuer chains to Linkerd's trust anchors"
OTHERS = "nobody else has rights among machines' accounts"
APART = "groups share no Service and no identity"

BARE = 3  # the exit code for a group that somebody has applied without its Roles, which is an error of its own

TABLE: dict[str, Wrong] = {
    "E: a group in Linkerd's namespace": Wrong(
        making(WORKLOAD_GROUPS, "linkerd", "linkerd-destination", spec={"networks": ["10.9.0.0/16"]}),
        GROUPS, "warning", "linkerd/linkerd-destination: namespace linkerd is no place for machines", BARE,
    ),
    "F: a RoleBinding among machines' accounts": Wrong(
        binding(f"{PLACE}-vms"), OTHERS, "error", f"group {PLACE}/web: RoleBinding ops (ClusterRole edit): User eve",
    ),
    "F: exclave's own RoleBinding, with another subject": Wrong(
        changing(
            ROLE_BINDINGS, f"{PLACE}-vms", "exclave-machines", {"subjects": [EVE]},
        ),
        OTHERS, "error", "RoleBinding exclave-machines (Role exclave-machines): User eve",
    ),
    "F: a RoleBinding in the controller's namespace": Wrong(
        binding("exclave"), "nobody else has rights in the controller's namespace", "warning",
        "found: RoleBinding ops (ClusterRole edit): User eve",
    ),
    "F: rights for every machine": Wrong(
        making(
            ROLE_BINDINGS, PLACE, "handy", roleRef=EDIT,
            subjects=[{"apiGroup": RBAC, "kind": "Group", "name": "system:authenticated"}],
        ),
        "machines have no other rights", "warning", f"RoleBinding handy in {PLACE}: edit",
    ),
    "F: another account among those of machines": Wrong(
        making(SERVICE_ACCOUNTS, f"{PLACE}-vms", "robot"),
        "namespaces of machines' accounts contain nothing else", "warning", f"ServiceAccount robot in {PLACE}-vms",
    ),
    "G: a namespace with the suffix of ours": Wrong(
        making(NAMESPACES, None, "misconfigured-vms"), "no foreign namespace ends in -vms", "warning",
        "misconfigured-vms",
    ),
    "I: settings that somebody else wrote": Wrong(
        edited_settings, "the settings of every group are the controller's", "error",
        f"ConfigMap exclave-mesh.web in {PLACE} has been changed",
    ),
    "K: an opaque port that is none": Wrong(
        linkerd_value(proxy={"opaquePorts": "25,x"}), LINKERDS, "error", "proxy.opaquePorts",
    ),
    "K: a network that is none": Wrong(
        linkerd_value(clusterNetworks="10.0.0.0/99"), LINKERDS, "error", "clusterNetworks",
    ),
    "L: an issuer of another mesh": Wrong(
        another_issuer, ISSUER, "error", "does not lead to the trust anchors that Linkerd publishes",
    ),
    "L: no issuer": Wrong(
        removing(SECRETS, "exclave", "exclave-issuer"), ISSUER, "error", "there is no Secret exclave/exclave-issuer",
    ),
    "L: no trust anchors": Wrong(
        removing(CONFIG_MAPS, "linkerd", "linkerd-identity-trust-roots"), ISSUER, "error",
        "Secret exclave/exclave-issuer",
    ),
    "M: a network with host bits": Wrong(
        grouped("bits", networks=["10.9.0.1/16"]), GROUPS, "warning", f"{PLACE}/bits: ", BARE,
    ),
    "M: a label of exclave's own": Wrong(
        grouped("own", labels={"exclave.dev/group": "web"}), GROUPS, "warning", f"{PLACE}/own: ", BARE,
    ),
    "M: a group without its Roles": Wrong(
        grouped("bare"), GROUP_RIGHTS, "error", f"RoleBinding exclave-publisher.bare in {PLACE} is missing",
    ),
    "M: two groups of one account": Wrong(
        grouped("twin", serviceAccount="web"), APART, "warning", "share ServiceAccount web: policies cannot tell", BARE,
    ),
    "more attacks: a Service of pods and of a group": Wrong(
        pods_beside, APART, "warning", "Service front selects group web and 1 pod: they share its traffic",
    ),
    "more attacks: labels of Linkerd's own": Wrong(
        grouped("part", labels={"linkerd.io/control-plane-component": "destination"}), APART, "warning",
        "group part has labels of Linkerd's own", BARE,
    ),
    "more attacks: the address of a Service": Wrong(
        occupied, "no member has an address of the cluster", "error",
        f"{PLACE}/web-k7q2x-1 has 10.96.0.7, the address of Service default/front",
    ),
    "no policy": Wrong(
        removing(VALIDATING_ADMISSION_POLICIES, None, "exclave-guard"), POLICIES, "error", "exclave-guard",
    ),
    "a policy that is not bound": Wrong(
        removing(VALIDATING_ADMISSION_POLICY_BINDINGS, None, "exclave-controller"), POLICIES, "error",
        "exclave-controller",
    ),
    "a policy that only audits": Wrong(
        changing(
            VALIDATING_ADMISSION_POLICY_BINDINGS, None, "exclave-guard",
            {"spec": {"validationActions": ["Audit"]}},
        ),
        POLICIES, "error", "exclave-guard",
    ),
    "Q, R: a namespace that does not enforce Pod Security": Wrong(
        changing(
            NAMESPACES, None, "exclave",
            {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
        ),
        OUR_RIGHTS, "error", "Namespace exclave has been changed",
    ),
    "R: a Role that was edited": Wrong(
        changing(ROLES, PLACE, "exclave-machines", {"rules": WIDER}),
        GROUP_RIGHTS, "error", f"Role exclave-machines in {PLACE} has been changed",
    ),
    "R: rights of the controller that were edited": Wrong(
        removing(CLUSTER_ROLES, None, CONTROLLER), OUR_RIGHTS, "error", f"ClusterRole {CONTROLLER} is missing",
    ),
    "a headless Service": Wrong(
        making(
            SERVICES, PLACE, "bare",
            spec={"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80}]},
        ),
        "no headless Service selects a group", "warning", f"{PLACE}/bare",
    ),
    "a Service with other opaque ports": Wrong(
        making(
            SERVICES, PLACE, "opaque",
            metadata={"annotations": {"config.linkerd.io/opaque-ports": "8080"}},
            spec={"selector": {"app": "web"}, "ports": [{"port": 8080}]},
        ),
        "groups and their Services have the same opaque ports", "warning", "port 8080",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", TABLE.values(), ids=TABLE)
def test_a_misconfiguration_is_found_and_named(standing: Cluster, wrong: Wrong) -> None:
    undo = wrong.broken(standing)
    try:
        typed = standing.admin.type("check", "-o", "json")
    finally:
        undo()
    code = 3 if wrong.result == "error" else 0
    assert typed.code == (code if wrong.code is None else wrong.code), typed.out
    rows = json.loads(typed.out)["categories"][0]["checks"]
    found = {one["description"]: one for one in rows}
    assert found[wrong.title]["result"] == wrong.result, found[wrong.title]
    assert wrong.words in found[wrong.title]["error"]
    assert found[wrong.title]["hint"]


def test_what_is_right_is_no_fault(standing: Cluster) -> None:
    """Without this row, those above could find what an earlier one has left."""
    assert standing.admin.type("upgrade").code == 0
    typed = standing.admin.type("check", "-o", "json")
    rows = json.loads(typed.out)["categories"][0]["checks"]
    assert [one for one in rows if one["result"] != "success"] == []
    assert typed.code == 0
