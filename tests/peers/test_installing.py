"""exclave installed, checked, upgraded and removed by an admin's commands, with the real kubectl on real API servers.

The tests share one cluster, of the newest release; only the way from nothing to a member and back is gone on the
oldest, too. Each test leaves the cluster without exclave, but for those at the end, which share `standing`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from exclave.admin.kubectl import Kubectl
from exclave.admin.objects import IMAGE
from exclave.api.requests import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    EXTERNAL_WORKLOADS,
    LEASES,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Resource,
    path_of,
)
from exclave.cluster.credential import parse_credential
from exclave.config import Config, MemberConfig, Paths
from exclave.join.join import join
from exclave.member.record import MembershipRecord
from exclave_sandbox.pki import make_anchor, make_issuer
from exclave_sandbox.stage.mesh import VM
from support.admin import admin_of

from .installation import NETWORK, Cluster, cluster_of, until
from .kubernetes import AVAILABLE, Kubernetes

LINKERDS = "the issuer chains to Linkerd's trust anchors"
CAP = "--service-account-max-token-expiration=24h"


@pytest.fixture
def cluster(own_kubernetes: Kubernetes, tmp_path: Path) -> Iterator[Cluster]:
    with cluster_of(own_kubernetes, tmp_path) as found:
        yield found


@contextmanager
def installed(cluster: Cluster, *options: str) -> Iterator[None]:
    """exclave, with an issuer of its own unless told; taken out again, whatever comes."""
    made = cluster.furnish()
    typed = cluster.admin.type("install", *(options or cluster.issuer_files(made.issuer)))
    assert typed.code == 0, typed.err
    try:
        yield
    finally:
        typed = cluster.admin.type("uninstall", "--strand-members")
    assert typed.code == 0, typed.err


@pytest.fixture(scope="module")
def standing(own_kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """exclave as it was installed, for those who change something in it and change it back."""
    with cluster_of(own_kubernetes, tmp_path_factory.mktemp("standing")) as cluster, installed(cluster):
        yield cluster


def make_group(cluster: Cluster, name: str = "web") -> None:
    # An uninstallation leaves the accounts of join tokens, which earlier tests have made.
    typed = cluster.admin.type("group", "create", name, "-n", "shop", "--adopt", *NETWORK)
    assert typed.code == 0, typed.err
    place = path_of(WORKLOAD_GROUPS, "shop", name)
    until(lambda: bool(cluster.client.get(place).json().get("status", {}).get("conditions")))


def join_one(cluster: Cluster, name: str = "vm", address: str = VM) -> MembershipRecord:
    line = cluster.admin.type("token", "create", "web", "-n", "shop").out.strip()
    folder = cluster.folder / name
    config = Config(Paths(folder / "state", folder / "run"), MemberConfig(address))
    return trio.run(join, line, config, time.time, lambda _: None)


def ours(kubectl: Kubectl) -> list[str]:
    """Everything of exclave's that is in a cluster, groups' namespaces aside."""
    kinds: tuple[Resource, ...] = (
        CUSTOM_RESOURCE_DEFINITIONS, VALIDATING_ADMISSION_POLICIES, VALIDATING_ADMISSION_POLICY_BINDINGS,
        CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ROLES, ROLE_BINDINGS, DEPLOYMENTS, EXTERNAL_WORKLOADS, CONFIG_MAPS,
        LEASES,
    )  # fmt: skip
    return [
        f"{kind.kind} {one['metadata']['name']}"
        for kind in kinds
        for one in kubectl.list(kind)
        if (
            "exclave" in one["metadata"]["name"]
            or kind in (EXTERNAL_WORKLOADS,)
            or one["metadata"]["name"][:4] == "web-"
        )
        and one["metadata"].get("namespace") != "exclave"
    ]


# What must hold before.


def refused(cluster: Cluster, *options: str) -> str:
    """What is said to somebody for whom nothing is made."""
    typed = cluster.admin.type("install", *options)
    assert (typed.code, typed.out) == (2, "")
    assert cluster.client.get(path_of(NAMESPACES, None, "exclave")).status_code == 404
    assert cluster.admin.kubectl.list(VALIDATING_ADMISSION_POLICIES) == []
    return typed.err


def test_a_cluster_without_linkerd_is_refused_and_nothing_is_made(cluster: Cluster) -> None:
    made = cluster.furnish()
    told = refused(cluster, *cluster.issuer_files(made.issuer), "-L", "nowhere")
    assert "× Linkerd is installed\n        there is no ConfigMap linkerd-config in namespace nowhere" in told


def test_an_issuer_that_the_mesh_would_not_believe_is_refused(cluster: Cluster) -> None:
    cluster.furnish()
    told = refused(cluster, *cluster.issuer_files(make_issuer(make_anchor())))
    assert f"× {LINKERDS}\n        the issuer does not lead to the trust anchors that Linkerd publishes" in told


def cert_managers_kind(kind: str, plural: str, scope: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    spec = {"group": "cert-manager.io", "scope": scope, "names": names, "versions": [version]}
    return {"metadata": {"name": f"{plural}.cert-manager.io"}, "spec": spec}


def test_an_issuer_of_cert_manager_is_looked_for_before_anything_is_made(cluster: Cluster) -> None:
    cluster.furnish()
    asked = ("--issuer-from", "ClusterIssuer/mesh")
    told = refused(cluster, *asked)
    missing = "there is no CustomResourceDefinition certificates.cert-manager.io"
    assert f"× cert-manager is installed\n        {missing}" in told
    crds = path_of(CUSTOM_RESOURCE_DEFINITIONS, None)
    for kind, plural, scope in (
        ("Certificate", "certificates", "Namespaced"),
        ("ClusterIssuer", "clusterissuers", "Cluster"),
    ):
        assert cluster.client.post(crds, json=cert_managers_kind(kind, plural, scope)).status_code == 201
    issuers = "/apis/cert-manager.io/v1/clusterissuers"
    until(lambda: cluster.client.get(issuers).status_code == 200)
    try:
        told = refused(cluster, *asked)
        assert "    √ cert-manager is installed\n    × ClusterIssuer mesh is ready\n" in told
        assert "    there is no ClusterIssuer mesh\n" in told
        body = {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "mesh"}}
        assert cluster.client.post(issuers, json=body).status_code == 201
        waiting = {"type": "Ready", "status": "False", "message": "its Secret is not there"}
        cluster.merge(f"{issuers}/mesh/status", {"status": {"conditions": [waiting]}})
        assert "    × ClusterIssuer mesh is ready\n        its Secret is not there\n" in refused(cluster, *asked)
        cluster.merge(f"{issuers}/mesh/status", {"status": {"conditions": [{**waiting, "status": "True"}]}})
        with installed(cluster, *asked):
            made = cluster.client.get("/apis/cert-manager.io/v1/namespaces/exclave/certificates/exclave-issuer").json()
            assert made["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "mesh"}
            assert cluster.rows()[LINKERDS] == ("error", "there is no Secret exclave/exclave-issuer")
    finally:
        for name in ("certificates", "clusterissuers"):
            cluster.client.delete(f"{crds}/{name}.cert-manager.io")


def test_whoever_may_not_install_is_told_every_right_that_is_missing(cluster: Cluster) -> None:
    made = cluster.furnish()
    kubectl = cluster.admin.kubectl
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "create", "patch"]}
    reading = {**everything, "verbs": ["get", "list"]}
    files = cluster.issuer_files(made.issuer)
    for name, rule in (("reader", reading), ("maker", everything)):
        kubectl.create(SERVICE_ACCOUNTS, "default", {"metadata": {"name": name}})
        kubectl.create(CLUSTER_ROLES, None, {"metadata": {"name": name}, "rules": [rule]})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
        body = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
        kubectl.create(CLUSTER_ROLE_BINDINGS, None, body)
        somebody = admin_of(cluster.server, cluster.folder / name, kubectl.create_token("default", name, 600))
        typed = somebody.type("install", *files)
        assert (typed.code, typed.out) == (2, "")
        assert "× you may install exclave\n" in typed.err
        if name == "reader":
            assert "    you may not create customresourcedefinitions, patch customresourcedefinitions, " in typed.err
            assert ", create secrets in exclave, patch secrets in exclave, " in typed.err
        else:
            assert "is attempting to grant RBAC permissions not currently held" in typed.err
        assert kubectl.get(NAMESPACES, None, "exclave") is None
        kubectl.delete(CLUSTER_ROLE_BINDINGS, None, name)
        kubectl.delete(CLUSTER_ROLES, None, name)


# From nothing to a member, and back.


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_four_commands_from_nothing_to_a_member_and_back(cluster: Cluster) -> None:
    admin, made = cluster.admin, cluster.furnish()
    typed = admin.type("install", *cluster.issuer_files(made.issuer))
    assert typed.code == 0, typed.err
    assert "machines' credentials are valid for 30d in this cluster, and are renewed at half of that\n" in typed.err
    assert made.issuer.key_pem not in typed.out + typed.err
    with cluster.controller() as process:
        make_group(cluster)
        record = join_one(cluster)
        assert [row["NAME"] for row in admin.rows("member", "list", "-n", "shop")] == [record.member]
        found = cluster.rows()
        until_row = next(told for told in found if told.startswith("the issuer's certificate is valid until "))
        for told in (
            "the admission policies are as installed",
            "the controller's rights are as installed",
            "every group's rights are as created",
            LINKERDS,
            until_row,
            "machines have no other rights",
            "nobody else has rights among machines' accounts",
            "no foreign namespace ends in -vms",
            "namespaces of machines' accounts contain nothing else",
        ):
            assert found[told] == ("success", ""), told
        told = admin.type("uninstall")
        assert told.code == 2
        assert f"1 member would be stranded: shop/{record.member}; pods would no longer reach them" in told.err
        assert admin.type("member", "evict", record.member, "-n", "shop").code == 0
        cluster.until_gone(record.member)
        typed = admin.type("uninstall")
        assert typed.code == 0, typed.err
        assert process.poll() is not None
    assert cluster.left_at_its_end == ["web"], "the controllers end before what they would hold again is let go"
    assert "waiting for the controllers to end" in typed.err
    assert ours(admin.kubectl) == []
    again = admin.type("uninstall")
    assert again.code == 0, again.err


def test_stranded_members_leave_nothing_that_holds_or_misleads(cluster: Cluster) -> None:
    """With Linkerd's own issuer, whose Role stands in Linkerd's namespace."""
    made = cluster.furnish()
    secret = {"metadata": {"name": "linkerd-identity-issuer"}, "stringData": {}}
    secret["stringData"] = {"crt.pem": made.issuer.pem, "key.pem": made.issuer.key_pem}
    cluster.client.post("/api/v1/namespaces/linkerd/secrets", json=secret)
    admin = cluster.admin
    assert admin.type("install", "--use-linkerd-issuer").code == 0
    with cluster.controller():
        make_group(cluster)
        record = join_one(cluster)
        assert cluster.rows()[LINKERDS] == ("success", "")
        assert cluster.client.get(path_of(ROLES, "linkerd", "exclave-issuer")).status_code == 200
        before = ours(admin.kubectl)
        preview = admin.type("uninstall", "--dry-run")
        assert (preview.code, ours(admin.kubectl)) == (0, before)
        assert preview.err.splitlines()[-1] == (
            "members would be stranded: 1; without --strand-members, uninstall refuses"
        )
        typed = admin.type("uninstall", "--strand-members")
        assert typed.code == 0, typed.err
        # The group owns its settings: the server may have deleted them before `uninstall` does.
        settings = "ConfigMap exclave-mesh.web in shop"
        previewed = [line.removesuffix(" would be deleted") for line in preview.out.splitlines()]
        deleted = [line.removesuffix(" deleted") for line in typed.out.splitlines()]
        assert [one for one in previewed if one != settings] == [one for one in deleted if one != settings]
        assert settings in previewed
    assert ours(admin.kubectl) == []
    assert cluster.client.get(path_of(EXTERNAL_WORKLOADS, "shop", record.member)).status_code == 404


# What is chosen anew.


def test_an_upgrade_keeps_what_was_chosen_and_takes_back_what_it_gave_before(cluster: Cluster) -> None:
    made, admin = cluster.furnish(), cluster.admin
    place = path_of(DEPLOYMENTS, "exclave", "exclave-controller")

    def container() -> dict[str, Any]:
        found: dict[str, Any] = cluster.client.get(place).json()["spec"]["template"]["spec"]["containers"][0]
        return found

    with installed(cluster, "--use-linkerd-issuer", "--image", "registry.example/exclave:mine"):
        cluster.merge(place, {"spec": {"replicas": 3}})
        printed = list(yaml.safe_load_all(admin.type("upgrade", "--dry-run").out))
        (deployment,) = [one for one in printed if one["kind"] == "Deployment"]
        (told,) = deployment["spec"]["template"]["spec"]["containers"]
        assert "--issuer=linkerd/linkerd-identity-issuer" in told["args"]
        upgraded = admin.type("upgrade")
        assert upgraded.code == 0, upgraded.err
        assert "the controller's image stays registry.example/exclave:mine; to change it: --image" in upgraded.err
        assert container()["image"] == "registry.example/exclave:mine"
        assert "--issuer=linkerd/linkerd-identity-issuer" in container()["args"]
        assert cluster.client.get(place).json()["spec"]["replicas"] == 3

        files = cluster.issuer_files(made.issuer)
        printed_key = admin.type("upgrade", "--dry-run", *files)
        assert "kind: Secret" not in printed_key.out
        assert made.issuer.key_pem.splitlines()[1] not in printed_key.out + printed_key.err
        older = IMAGE.rpartition(":")[0] + ":0.0.1"
        cluster.merge(place, {"spec": {"template": {"spec": {"containers": [{**container(), "image": older}]}}}})
        upgraded = admin.type("upgrade", *files)
        assert upgraded.code == 0, upgraded.err
        assert container()["image"] == IMAGE
        assert not [one for one in container()["args"] if one.startswith("--issuer")]
        assert "Role exclave-issuer in linkerd deleted\n" in upgraded.out
        for kind in (ROLES, ROLE_BINDINGS):
            assert cluster.client.get(path_of(kind, "linkerd", "exclave-issuer")).status_code == 404
            assert cluster.client.get(path_of(kind, "exclave", "exclave-issuer")).status_code == 200


# A cluster that caps tokens.


@contextmanager
def capped(kubernetes: Kubernetes) -> Iterator[None]:
    """Tokens live for a day at most, as with some clouds."""
    kubernetes.apiserver.command.append(CAP)
    try:
        restart(kubernetes)
        yield
    finally:
        kubernetes.apiserver.command.remove(CAP)
        restart(kubernetes)


def restart(kubernetes: Kubernetes) -> None:
    kubernetes.apiserver.kill()  # in order, it would wait for every open watch
    kubernetes.apiserver.start()
    kubernetes.wait_ready()


def test_a_cap_on_the_life_of_tokens_is_measured_and_told(own_kubernetes: Kubernetes, tmp_path: Path) -> None:
    with capped(own_kubernetes), cluster_of(own_kubernetes, tmp_path) as cluster:
        admin, made = cluster.admin, cluster.furnish()
        told = "this API server limits the lifetime of tokens to 24h: machines renew their credential at half of that, "
        typed = admin.type("install", *cluster.issuer_files(made.issuer))
        assert typed.code == 0, typed.err
        assert told in typed.err
        with cluster.controller():
            make_group(cluster)
            assert told in admin.type("token", "create", "web", "-n", "shop").err
            join_one(cluster)
            stored = parse_credential((tmp_path / "vm" / "state" / "credential.json").read_text())
            assert round(stored.expires - stored.granted) == 86400
            assert admin.type("uninstall", "--strand-members").code == 0
    assert ours(cluster.admin.kubectl) == []


# What an admin, or somebody else, changes.


def test_rights_that_were_edited_are_found_and_put_right(standing: Cluster) -> None:
    admin, kubectl = standing.admin, standing.admin.kubectl
    groups_rights = "every group's rights are as created"
    assert admin.type("group", "create", "web", "-n", "shop", "--adopt", *NETWORK).code == 0
    assert standing.rows()[groups_rights] == ("success", "")
    kubectl.delete(ROLE_BINDINGS, "shop", "exclave-publisher.web")
    wider = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    kubectl.patch(ROLES, "shop", "exclave-machines", {"rules": wider})
    kubectl.patch(NAMESPACES, None, "shop-vms", {"metadata": {"labels": {"exclave.dev/machines": None}}})
    kubectl.patch(CLUSTER_ROLES, None, "exclave-controller", {"rules": wider})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
    everyone = {
        "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:serviceaccounts:shop-vms",
    }  # fmt: skip
    body = {"metadata": {"name": "handy"}, "roleRef": role, "subjects": [everyone]}
    kubectl.create(ROLE_BINDINGS, "shop", body)
    kubectl.create(SERVICE_ACCOUNTS, "shop-vms", {"metadata": {"name": "robot"}})
    found = standing.rows()
    assert found[groups_rights] == (
        "error",
        "Namespace shop-vms has been changed, Role exclave-machines in shop has been changed, "
        "RoleBinding exclave-publisher.web in shop is missing",
    )
    assert found["the controller's rights are as installed"] == (
        "error", "ClusterRole exclave-controller has been changed",
    )  # fmt: skip
    assert found["no foreign namespace ends in -vms"] == ("warning", "shop-vms")
    short = admin.type("check", "-o", "short").out
    assert "× the controller's rights are as installed\n" in short
    assert "√" not in short
    upgraded = admin.type("upgrade")
    assert upgraded.code == 0, upgraded.err
    assert "role.rbac.authorization.k8s.io/exclave-machines in shop changed: rules\n" in upgraded.out
    found = standing.rows()
    assert (found[groups_rights], found["the controller's rights are as installed"]) == (("success", ""),) * 2
    assert found["machines have no other rights"] == (
        "warning", "RoleBinding handy in shop: edit",
    )  # fmt: skip
    assert found["namespaces of machines' accounts contain nothing else"] == (
        "warning", "ServiceAccount robot in shop-vms",
    )  # fmt: skip
    kubectl.delete(ROLE_BINDINGS, "shop", "handy")
    kubectl.delete(SERVICE_ACCOUNTS, "shop-vms", "robot")


def test_a_group_does_not_move_in_with_somebody_else(standing: Cluster) -> None:
    kubectl = standing.admin.kubectl
    for name in ("tools", "tools-vms"):
        kubectl.create(NAMESPACES, None, {"metadata": {"name": name}})
    kubectl.create(SERVICE_ACCOUNTS, "tools-vms", {"metadata": {"name": "operator"}})
    assert standing.rows()["no foreign namespace ends in -vms"] == ("warning", "tools-vms")
    typed = standing.admin.type("group", "create", "web", "-n", "tools", *NETWORK)
    assert (typed.code, typed.out) == (2, "")
    assert "namespace tools-vms, which is somebody else's: it holds ServiceAccount operator in tools-vms" in typed.err
    assert kubectl.list(ROLE_BINDINGS, "tools-vms") == []
    for name in ("tools", "tools-vms"):
        kubectl.delete(NAMESPACES, None, name)


def test_linkerd_asks_in_somebody_elses_name_and_every_row_is_told(standing: Cluster) -> None:
    typed = standing.admin.type("check", "--as=nobody", "--as-group=[]", "--linkerd-namespace=linkerd", "-o", "json")
    assert typed.code == 3
    (category,) = json.loads(typed.out)["categories"]
    assert len(category["checks"]) == 17
    errors = [one["error"] for one in category["checks"]]
    assert all("nobody" in one or "you may not" in one or one == "the same as above" for one in errors)
    named = [one for one in errors if one != "the same as above"]
    assert len(named) == len(set(named)) > 1
