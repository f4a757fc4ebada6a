"""An installation where there is one, or where others have objects: twice, beside Argo CD, in a namespace of others,
over an earlier version, and where Pod Security is enforced everywhere. With the real kubectl on real API servers.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exclave.api.names import CONTROLLER
from exclave.api.requests import (
    CLUSTER_ROLES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Object,
    path_of,
)

from .installation import Cluster, cluster_of, until
from .kubernetes import AVAILABLE, Kubernetes
from .test_installing import installed, restart

DEPLOYMENT = path_of(DEPLOYMENTS, "exclave", CONTROLLER)


@pytest.fixture
def cluster(own_kubernetes: Kubernetes, tmp_path: Path) -> Iterator[Cluster]:
    with cluster_of(own_kubernetes, tmp_path) as found:
        yield found


def install_again(cluster: Cluster, *options: str) -> tuple[int, str, str]:
    return cluster.admin.type(
        "install",
        "--issuer-certificate",
        str(cluster.folder / "issuer.crt"),
        "--issuer-key",
        str(cluster.folder / "issuer.key"),
        *options,
    )


def apply_as(cluster: Cluster, manager: str, path: str, body: Object) -> None:
    """Server-side apply, as a program that applies its own files does."""
    answer = cluster.client.patch(
        path,
        params={"fieldManager": manager, "force": "true"},
        content=json.dumps(body),
        headers={"Content-Type": "application/apply-patch+yaml"},
    )
    assert answer.status_code in (200, 201), answer.text


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_a_second_installation_changes_nothing_and_states_it(cluster: Cluster) -> None:
    with installed(cluster):
        code, out, err = install_again(cluster)
        assert code == 0, err
        lines = out.splitlines()
        assert [line for line in lines if not line.endswith(" unchanged")] == []
        assert "Deployment exclave-controller in exclave unchanged" in lines
        cluster.merge(DEPLOYMENT, {"spec": {"template": {"spec": {"runtimeClassName": "mine"}}}})
        cluster.merge(path_of(CLUSTER_ROLES, None, CONTROLLER), {"rules": []})
        code, out, err = install_again(cluster)
        assert code == 0, err
        changed = [line for line in out.splitlines() if not line.endswith(" unchanged")]
        assert changed == ["ClusterRole exclave-controller changed"], "a field that exclave does not set is the admin's"


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_fields_that_another_program_applies_are_not_overridden(cluster: Cluster) -> None:
    argo = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": CONTROLLER}}
    theirs = {"replicas": 5, "strategy": {"rollingUpdate": {"maxUnavailable": 2}}}
    ours = {"replicas": 2, "strategy": {"rollingUpdate": {"maxUnavailable": 1}}}
    wait = ".spec.strategy.rollingUpdate.maxUnavailable"
    with installed(cluster):
        cluster.merge(DEPLOYMENT, {"spec": {"replicas": 4}})
        code, _, err = install_again(cluster)
        assert code == 0, "an admin who has edited a field does not set it again"
        assert cluster.client.get(DEPLOYMENT).json()["spec"]["replicas"] == 2
        apply_as(cluster, "argocd-controller", DEPLOYMENT, argo | {"spec": theirs})
        for typed, fields in (
            (install_again(cluster), f".spec.replicas, {wait}"),
            (cluster.admin.type("upgrade", "--image", "other:1"), wait),  # an upgrade keeps the number of replicas
        ):
            code, out, err = typed
            assert (code, out) == (2, "")
            assert (
                "\n    × no other program manages exclave's objects\n"
                f"        Deployment exclave-controller in exclave: argocd-controller sets {fields}\n"
                "        to do: change these fields there, or install exclave with that program; "
            ) in err
        found = cluster.client.get(DEPLOYMENT).json()
        assert found["spec"]["replicas"] == 5
        assert found["spec"]["template"]["spec"]["containers"][0]["image"] != "other:1"
        apply_as(cluster, "argocd-controller", DEPLOYMENT, argo | {"spec": ours})
        code, _, err = install_again(cluster)
        assert code == 0, "where both want the same, there is no conflict"


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_what_an_earlier_version_made_is_removed(cluster: Cluster) -> None:
    def role(name: str, **labels: str) -> Object:
        metadata = {"name": name, "namespace": "kube-system", "labels": labels}
        return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": []}

    label = {"exclave.dev/installation": "exclave"}
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "exclave-old", "labels": label}}
    with installed(cluster):
        earlier, theirs, other = (path_of(ROLES, "kube-system", name) for name in ("earlier", "theirs", "other"))
        apply_as(cluster, "exclave", earlier, role("earlier", **label))
        apply_as(cluster, "somebody", theirs, role("theirs", **label))
        apply_as(cluster, "exclave", other, role("other", **{"exclave.dev/installation": "another"}))
        apply_as(cluster, "exclave", path_of(CONFIG_MAPS, "exclave", "exclave-old"), settings)
        typed = cluster.admin.type("upgrade")
        assert typed.code == 0, typed.err
        assert [line for line in typed.out.splitlines() if line.endswith(" deleted")] == [
            "Role earlier in kube-system deleted"
        ]
        assert [cluster.client.get(path).status_code for path in (earlier, theirs, other)] == [404, 200, 200]
        assert cluster.client.get(path_of(CONFIG_MAPS, "exclave", "exclave-old")).status_code == 200
        for path in (theirs, other):
            cluster.client.delete(path)


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_a_namespace_that_somebody_else_has_made_is_used_only_on_request(cluster: Cluster) -> None:
    made = cluster.furnish()
    cluster.issuer_files(made.issuer)
    kubectl = cluster.admin.kubectl
    kubectl.create(NAMESPACES, None, {"metadata": {"name": "exclave"}})
    kubectl.create(SERVICE_ACCOUNTS, "exclave", {"metadata": {"name": CONTROLLER}})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
    eve = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}
    binding = {"metadata": {"name": "ops"}, "roleRef": role, "subjects": [eve]}
    kubectl.create(ROLE_BINDINGS, "exclave", binding)
    row = "nobody else has rights in the controller's namespace"
    try:
        code, out, err = install_again(cluster)
        assert (code, out) == (2, "")
        assert f"\n    × {row}\n" in err
        assert "found: RoleBinding ops (ClusterRole edit): User eve; ServiceAccount exclave-controller\n" in err
        assert "to do: delete the namespace, or accept it: kubectl exclave install --adopt" in err
        assert cluster.client.get(DEPLOYMENT).status_code == 404
        code, _, err = install_again(cluster, "--adopt")
        assert code == 0, err
        assert "warning: who has rights in namespace exclave, which somebody else has made, may be able to sign" in err
        assert cluster.rows()[row] == ("success", "")
        code, _, err = install_again(cluster)
        assert code == 0, "what was accepted stays accepted"
        kubectl.create(ROLE_BINDINGS, "exclave", binding | {"metadata": {"name": "more"}})
        assert cluster.rows()[row][0] == "warning"
        assert install_again(cluster)[0] == 2
        typed = cluster.admin.type("upgrade")
        assert (typed.code, "found: RoleBinding more (ClusterRole edit): User eve" in typed.err) == (0, True), typed.err
        (command,) = [
            one["hint"].partition("accept them: kubectl ")[2]
            for one in json.loads(cluster.admin.type("check", "-o", "json").out)["categories"][0]["checks"]
            if one["description"] == row
        ]
        assert command == "annotate namespace exclave --overwrite exclave.dev/adopted=more,ops"
        kubectl.patch(NAMESPACES, None, "exclave", {"metadata": {"annotations": {"exclave.dev/adopted": "more,ops"}}})
        assert cluster.rows()[row] == ("success", "")
        assert cluster.admin.type("upgrade").code == 0
        assert cluster.rows()[row] == ("success", "")
    finally:
        preview = cluster.admin.type("uninstall", "--dry-run")
        typed = cluster.admin.type("uninstall", "--strand-members")
    assert typed.code == 0, typed.err
    assert "not deleted: namespace exclave, because others have made it\n" in typed.err
    assert "not deleted: namespace exclave, because others have made it\n" in preview.err
    assert "Secret exclave-issuer in exclave would be deleted\n" in preview.out
    assert "Secret exclave-issuer in exclave deleted\n" in typed.out
    assert "Namespace exclave" not in preview.out + typed.out
    theirs = cluster.client.get(path_of(NAMESPACES, None, "exclave")).json()["metadata"]
    assert theirs["labels"] == {"kubernetes.io/metadata.name": "exclave"}
    # An admin has written this one by hand, as `check` proposed.
    assert theirs["annotations"] == {"exclave.dev/adopted": "more,ops"}
    for resource, names in {
        DEPLOYMENTS: set(), SECRETS: set(), LEASES: set(), ROLES: set(), ROLE_BINDINGS: {"more", "ops"},
    }.items():  # fmt: skip
        found = cluster.client.get(path_of(resource, "exclave")).json()["items"]
        assert {one["metadata"]["name"] for one in found} == names
    cluster.client.delete(path_of(NAMESPACES, None, "exclave"))
    until(lambda: cluster.client.get(path_of(NAMESPACES, None, "exclave")).status_code == 404)


@contextmanager
def restricted_everywhere(kubernetes: Kubernetes, folder: Path) -> Iterator[None]:
    """Each namespace without labels of its own enforces the Pod Security Standard `restricted`."""
    defaults = {"enforce": "restricted", "enforce-version": "latest", "audit": "restricted", "warn": "restricted"}
    security = {"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration"}
    plugin: dict[str, Any] = {"name": "PodSecurity", "configuration": security | {"defaults": defaults}}
    kind = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration"}
    config = folder / "admission.json"
    config.write_text(json.dumps(kind | {"plugins": [plugin]}))
    option = f"--admission-control-config-file={config}"
    kubernetes.apiserver.command.append(option)
    try:
        restart(kubernetes)
        yield
    finally:
        kubernetes.apiserver.command.remove(option)
        restart(kubernetes)


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_an_installation_works_where_pod_security_is_enforced_everywhere(
    own_kubernetes: Kubernetes, tmp_path: Path
) -> None:
    with restricted_everywhere(own_kubernetes, tmp_path), cluster_of(own_kubernetes, tmp_path) as cluster:
        with installed(cluster):
            template = cluster.client.get(DEPLOYMENT).json()["spec"]["template"]
            pod = {"metadata": {"name": "one", **template["metadata"]}, "spec": template["spec"]}
            cluster.client.post(path_of(NAMESPACES, None), json={"metadata": {"name": "unlabelled"}})
            cluster.client.post(path_of(SERVICE_ACCOUNTS, "unlabelled"), json={"metadata": {"name": CONTROLLER}})
            for namespace in ("exclave", "unlabelled"):
                answer = cluster.client.post(path_of(PODS, namespace), json=pod)
                assert answer.status_code == 201, answer.text
            del pod["spec"]["securityContext"]["runAsNonRoot"]
            refused = cluster.client.post(path_of(PODS, "unlabelled"), json=pod | {"metadata": {"name": "two"}})
            assert (refused.status_code, "violates PodSecurity" in refused.text) == (403, True)
            cluster.client.delete(path_of(PODS, "exclave", "one"), params={"gracePeriodSeconds": "0"})
            cluster.client.delete(path_of(NAMESPACES, None, "unlabelled"))
