"""The real kubectl against the sandbox's API server; test_kubectl_errors has its texts."""

import base64
import json
from pathlib import Path

import pytest

from exclave.admin.kubectl import KubeconfigCluster, Kubectl
from exclave.admin.objects import join_account
from exclave.api.requests import CONFIG_MAPS, MEMBERS, NAMESPACES, SERVICE_ACCOUNTS, Object, Resource
from exclave.cluster.credential import read_token_times
from exclave.errors import ApiRefusal, ExclaveError, Fault
from peers.conftest import Server
from support.admin import KUBECTL, Admin, admin_of, write_program


@pytest.fixture
def kubectl(admin: Admin, namespace: str) -> Kubectl:
    found = admin.kubectl
    found.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    return found


def config_map(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "1"}}


def test_an_object_is_created_read_changed_and_deleted(kubectl: Kubectl, namespace: str) -> None:
    assert kubectl.get(CONFIG_MAPS, namespace, "a") is None
    made = kubectl.create(CONFIG_MAPS, namespace, config_map("a"))
    assert kubectl.get(CONFIG_MAPS, namespace, "a") == made
    changed = kubectl.patch(CONFIG_MAPS, namespace, "a", {"data": {"a": None, "b": "2"}})
    assert changed["data"] == {"b": "2"}
    assert kubectl.delete(CONFIG_MAPS, namespace, "a")
    assert not kubectl.delete(CONFIG_MAPS, namespace, "a")


def test_an_existing_object_has_a_reason_of_its_own(kubectl: Kubectl, namespace: str) -> None:
    kubectl.create(CONFIG_MAPS, namespace, config_map("a"))
    with pytest.raises(ApiRefusal) as refused:
        kubectl.create(CONFIG_MAPS, namespace, config_map("a"))
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")


def test_a_list_names_the_kind_of_each(kubectl: Kubectl, namespace: str) -> None:
    for name, tier in (("a", "1"), ("b", "2")):
        kubectl.create(CONFIG_MAPS, namespace, config_map(name, tier=tier))
    found = kubectl.list(CONFIG_MAPS, namespace, selector="tier=2")
    assert [(one["kind"], one["apiVersion"], one["metadata"]["name"]) for one in found] == [("ConfigMap", "v1", "b")]
    all_namespaces = kubectl.list(CONFIG_MAPS, None, selector="tier")
    assert {("a", namespace), ("b", namespace)} <= {
        (one["metadata"]["name"], one["metadata"]["namespace"]) for one in all_namespaces
    }


def test_a_missing_kind_is_an_error_unlike_a_missing_object(kubectl: Kubectl, namespace: str) -> None:
    unknown = Resource("exclave.dev", "v9", "ghosts", "Ghost")
    for ask in (lambda: kubectl.get(unknown, namespace, "a"), lambda: kubectl.list(unknown, namespace)):
        with pytest.raises(ApiRefusal) as refused:
            ask()
        assert "it has no such kind" in refused.value.message


def test_a_token_has_the_requested_lifetime(kubectl: Kubectl, namespace: str) -> None:
    manifest = join_account(namespace, "web", "k7q2x", 1, 0.0)
    kubectl.create(NAMESPACES, None, {"metadata": {"name": f"{namespace}-vms"}})
    kubectl.create(SERVICE_ACCOUNTS, manifest.namespace, manifest.body)
    begin, end = read_token_times(kubectl.create_token(f"{namespace}-vms", "web.join.k7q2x-1", 1800))
    assert end - begin == 1800


def test_the_version_is_the_servers(kubectl: Kubectl) -> None:
    assert kubectl.server_version() == "v1.30.0+exclave-sandbox"


def test_address_ca_and_namespace_come_from_the_kubeconfig(server: Server, tmp_path: Path) -> None:
    admin = admin_of(server, tmp_path)
    assert admin.kubectl.cluster() == KubeconfigCluster(server.url, "", "", server.ca.encode(), False)
    assert admin.kubectl.namespace() == "default"
    config = json.loads(admin.kubeconfig.read_text())
    config["contexts"].append({"name": "y", "context": {"cluster": "c", "user": "u", "namespace": "shop"}})
    admin.kubeconfig.write_text(json.dumps(config))
    assert Kubectl("y", str(admin.kubeconfig), str(KUBECTL)).namespace() == "shop"


def test_a_ca_in_a_file_beside_the_kubeconfig_is_found(server: Server, tmp_path: Path) -> None:
    admin = admin_of(server, tmp_path)
    (tmp_path / "ca.pem").write_text(server.ca)
    config = json.loads(admin.kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": server.url, "certificate-authority": "ca.pem"}
    admin.kubeconfig.write_text(json.dumps(config))
    assert (admin.kubectl.cluster().server, admin.kubectl.cluster().ca) == (server.url, server.ca.encode())


def test_a_kubeconfig_without_a_ca_has_an_empty_one(server: Server, tmp_path: Path) -> None:
    admin = admin_of(server, tmp_path, **{"certificate-authority-data": "", "insecure-skip-tls-verify": True})
    assert admin.kubectl.cluster() == KubeconfigCluster(server.url, "", "", b"", True)


def test_a_name_and_a_proxy_in_the_kubeconfig_are_found(server: Server, tmp_path: Path) -> None:
    more = {"tls-server-name": "api.example.org", "proxy-url": "http://proxy.example.org:3128"}
    found = admin_of(server, tmp_path, **more).kubectl.cluster()
    assert (found.tls_name, found.proxy) == ("api.example.org", "http://proxy.example.org:3128")


def test_a_missing_kubectl_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExclaveError) as refused:
        Kubectl(binary=str(tmp_path / "kubectl")).list(MEMBERS)
    assert refused.value.message == f"the program {tmp_path / 'kubectl'} was not found on the PATH"


def test_an_answer_that_is_not_json_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "kubectl"
    write_program(program, "echo hello")
    with pytest.raises(ExclaveError) as refused:
        Kubectl(binary=str(program)).list(MEMBERS, "shop")
    assert refused.value.message == "the API server did not answer in JSON when asked to list members in namespace shop"


def test_no_argument_holds_a_body_or_a_token(tmp_path: Path) -> None:
    program, record = tmp_path / "kubectl", tmp_path / "record"
    answer = json.dumps({"status": {"token": "granted"}})
    write_program(program, f"echo \"$@\" >>{record}\ncat >/dev/null\necho '{answer}'")
    kubectl = Kubectl("home", "/etc/kubeconfig", str(program))
    secret = base64.b64encode(b"secret").decode()
    assert kubectl.create_token("shop-vms", "web.join.k7q2x-1", 600) == "granted"
    kubectl.create(CONFIG_MAPS, "shop", {"data": {"a": secret}})
    kubectl.patch(CONFIG_MAPS, "shop", "a", {"data": {"a": secret}})
    kubectl.apply([{"data": {"a": secret}}])
    common = "--request-timeout=60s --context=home --kubeconfig=/etc/kubeconfig"
    assert record.read_text().splitlines() == [
        f"{common} create --raw /api/v1/namespaces/shop-vms/serviceaccounts/web.join.k7q2x-1/token --filename=-",
        f"{common} create --raw /api/v1/namespaces/shop/configmaps --filename=-",
        f"{common} patch configmaps a --namespace=shop --type=merge --patch-file=/dev/stdin --output=json",
        f"{common} apply --server-side --field-manager=exclave --filename=- --output=json --force-conflicts",
    ]


def test_an_unreachable_server_is_an_error(server: Server, tmp_path: Path) -> None:
    admin = admin_of(server, tmp_path, server="https://127.0.0.1:1")
    with pytest.raises(ExclaveError) as refused:
        admin.kubectl.list(MEMBERS, "shop")
    assert refused.value.fault is Fault.UNREACHABLE
    assert refused.value.message.startswith(
        "kubectl was asked to list members in namespace shop and did not reach the API server:"
    )
