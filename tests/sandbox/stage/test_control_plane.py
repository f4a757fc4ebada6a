"""The command lines of the control plane's programs."""

import base64
from pathlib import Path

from exclave_sandbox.stage.control_plane import (
    NEWEST,
    RELEASES,
    Layout,
    apiserver_command,
    binaries_in,
    cache_folder,
    controllers_command,
    etcd_command,
    kubeconfig,
)

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
