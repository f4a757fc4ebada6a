"""A real Kubernetes: its command lines, and one that runs."""

import base64
import os
import stat
from pathlib import Path

import pytest

from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, MEMBERS, create, get, list_all
from exclave.cluster.client import open_cluster
from exclave.cluster.endpoint import Access
from exclave.errors import ClusterError, ExclaveError
from exclave_sandbox.stage.kubernetes import (
    NEWEST,
    RELEASES,
    Layout,
    apiserver_command,
    binaries_in,
    cache_folder,
    controllers_command,
    etcd_command,
    find_binaries,
    kubeconfig,
    open_kubernetes,
    write_keys,
)
from peers.kubernetes import AVAILABLE, cache
from support.needs import free_port, need

BINARIES = binaries_in(Path("/cache"), "1.30")
LAYOUT = Layout(Path("/here"), "10.77.0.1", 6443, 2379, 2380)


def test_binaries_are_in_a_folder_per_version_below_the_users_cache() -> None:
    assert cache_folder({}, Path("/home/u")) == Path("/home/u/.cache/exclave/peers")
    assert cache_folder({"EXCLAVE_PEERS": "/c"}, Path("/home/u")) == Path("/c")
    assert BINARIES.etcd == Path("/cache/etcd")
    assert BINARIES.apiserver == Path("/cache/v1.30.14/kube-apiserver")
    assert BINARIES.controller_manager == Path("/cache/v1.30.14/kube-controller-manager")
    assert next(iter(RELEASES)) == NEWEST


def test_etcd_is_reached_from_this_machine_only() -> None:
    listening = [word for word in etcd_command(BINARIES, LAYOUT) if "listen" in word or "advertise" in word]
    assert len(listening) == 4
    assert all("=http://127.0.0.1:23" in word for word in listening)


def test_the_api_server_uses_rbac_and_listens_at_its_address() -> None:
    command = apiserver_command(BINARIES, LAYOUT)
    assert LAYOUT.url == "https://10.77.0.1:6443"
    for word in ("--bind-address=10.77.0.1", "--secure-port=6443", "--authorization-mode=RBAC"):
        assert word in command
    assert not [word for word in command if "admission" in word]


def test_no_secret_is_an_argument() -> None:
    assert "--token-auth-file=/here/tokens.csv" in apiserver_command(BINARIES, LAYOUT)
    assert "--kubeconfig=/here/kubeconfig" in controllers_command(BINARIES, LAYOUT.folder)


def test_kubectl_finds_server_ca_and_token() -> None:
    found = kubeconfig(LAYOUT.url, "the CA", "the token")
    assert found["clusters"][0]["cluster"]["server"] == LAYOUT.url
    assert base64.b64decode(found["clusters"][0]["cluster"]["certificate-authority-data"]) == b"the CA"
    assert found["users"][0]["user"]["token"] == "the token"


def test_without_binaries_the_error_names_their_folder_and_how_to_build_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCLAVE_PEERS", str(tmp_path))
    (tmp_path / "etcd").touch()
    with pytest.raises(ExclaveError) as missing:
        find_binaries("1.37")
    assert missing.value.message == (
        f"Kubernetes v1.37.2 was expected in {tmp_path}; there is no kube-apiserver, kube-controller-manager"
    )
    assert missing.value.hint == (
        "build it, once: ./agent/demo --kubernetes does, or python tests/peers/building.py 1.37"
    )


def test_only_the_owner_can_read_the_keys(tmp_path: Path) -> None:
    ca = write_keys(Layout(tmp_path, "10.77.0.1", 6443, 2379, 2380), "the token")
    assert (tmp_path / "ca.pem").read_text() == ca
    assert (tmp_path / "tokens.csv").read_text() == 'the token,admin,admin,"system:masters"\n'
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in tmp_path.iterdir()} == {0o600}


async def test_objects_outlast_an_outage(tmp_path: Path) -> None:
    need(NEWEST in AVAILABLE, f"Kubernetes {NEWEST} is not in {cache()}")
    layout = Layout(tmp_path, "127.0.0.1", *(free_port() for _ in range(3)))
    async with open_kubernetes(find_binaries(), layout) as kubernetes:
        access = Access((kubernetes.url,), kubernetes.ca)
        async with open_cluster(access, lambda: kubernetes.admin_token) as admin:
            for resource in (MEMBERS, EXTERNAL_WORKLOADS):
                assert (await admin.send(list_all(resource, None)))["items"] == []
            await admin.send(create(CONFIG_MAPS, "default", {"metadata": {"name": "kept"}}))
            await kubernetes.close()
            with pytest.raises(ClusterError):
                await admin.send(get(CONFIG_MAPS, "default", "kept"))
            await kubernetes.open()
            assert await admin.send(get(CONFIG_MAPS, "default", "kept"))
    assert (tmp_path / "admin.token").read_text() == kubernetes.admin_token
