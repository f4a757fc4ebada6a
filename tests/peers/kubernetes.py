"""A real Kubernetes for tests: etcd, kube-apiserver and kube-controller-manager on loopback, with keys of their own.

Rules: the binaries lie in a cache outside of the checkout, `$EXCLAVE_PEERS` or ~/.cache/exclave/peers: `etcd`, and one
folder a version with the two servers. Every port is a free one, everything written goes into one folder, and what was
started is ended by its process id. Admission is as it comes; authorization is RBAC; one token may do everything.
"""

import base64
import json
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.admin.crds import custom_resource_definitions
from exclave.sandbox.custom import EXTERNAL_WORKLOAD
from exclave.sandbox.pki import make_anchor, make_leaf

RELEASES = {"1.37": "v1.37.2", "1.30": "v1.30.14"}
"""The newest release, and the oldest that exclave works with."""

AUDIENCE = "https://kubernetes.default.svc"
START_TIME = 120.0


@dataclass(frozen=True)
class Binaries:
    """Where the programs are."""

    etcd: Path
    apiserver: Path
    controller_manager: Path


@dataclass(frozen=True)
class Kubernetes:
    """A running one: its URL, its CA (PEM), and a token that may do everything."""

    url: str
    ca: str
    admin_token: str = field(repr=False)


def cache() -> Path:
    """Where binaries are kept."""
    named = os.environ.get("EXCLAVE_PEERS")
    return Path(named) if named else Path.home() / ".cache" / "exclave" / "peers"


def find_binaries(release: str) -> Binaries | None:
    """The programs of a release, None if they have not been built here."""
    folder = cache() / RELEASES[release]
    found = Binaries(cache() / "etcd", folder / "kube-apiserver", folder / "kube-controller-manager")
    whole = all(path.is_file() for path in (found.etcd, found.apiserver, found.controller_manager))
    return found if whole else None


AVAILABLE = [release for release in RELEASES if find_binaries(release) is not None]
"""The releases that tests can run against here."""


@contextmanager
def running_kubernetes(binaries: Binaries, folder: Path) -> Iterator[Kubernetes]:
    """Run one, with our definitions and Linkerd's ExternalWorkload in it."""
    token = secrets.token_hex(16)
    write_keys(folder, token)
    etcd, peer, api = (free_port() for _ in range(3))
    with ExitStack() as stack:
        stack.enter_context(running(etcd_command(binaries, folder, etcd, peer), folder / "etcd.log"))
        stack.enter_context(running(apiserver_command(binaries, folder, etcd, api), folder / "apiserver.log"))
        kubernetes = Kubernetes(f"https://127.0.0.1:{api}", (folder / "ca.pem").read_text(), token)
        wait_ready(kubernetes, folder / "apiserver.log")
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig(kubernetes)))
        stack.enter_context(running(controllers_command(binaries, folder), folder / "controllers.log"))
        with client_of(kubernetes) as client:
            for definition in (*custom_resource_definitions(), external_workload()):
                define(client, definition)
        yield kubernetes


def write_keys(folder: Path, token: str) -> None:
    """CA, the server's certificate, the key that signs accounts' tokens, the administrator's token."""
    anchor = make_anchor("kubernetes")
    leaf = make_leaf(anchor, [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    accounts = make_leaf(anchor, [x509.DNSName("accounts")])
    public = accounts.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for name, text in {
        "ca.pem": anchor.pem,
        "server.pem": leaf.pem,
        "server.key": leaf.key_pem,
        "accounts.key": accounts.key_pem,
        "accounts.pub": public.decode(),
        "tokens.csv": f'{token},admin,admin,"system:masters"\n',
    }.items():
        (folder / name).write_text(text)


def etcd_command(binaries: Binaries, folder: Path, port: int, peer: int) -> list[str]:
    here, there = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        str(binaries.etcd), f"--data-dir={folder}/etcd", "--unsafe-no-fsync",
        f"--listen-client-urls={here}", f"--advertise-client-urls={here}",
        f"--listen-peer-urls={there}", f"--initial-advertise-peer-urls={there}", f"--initial-cluster=default={there}",
    ]  # fmt: skip


def apiserver_command(binaries: Binaries, folder: Path, etcd: int, port: int) -> list[str]:
    return [
        str(binaries.apiserver),
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1", f"--secure-port={port}", "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={folder}/server.pem", f"--tls-private-key-file={folder}/server.key",
        f"--token-auth-file={folder}/tokens.csv",
        f"--service-account-issuer={AUDIENCE}", f"--api-audiences={AUDIENCE}",
        f"--service-account-key-file={folder}/accounts.pub",
        f"--service-account-signing-key-file={folder}/accounts.key",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
    ]  # fmt: skip


def controllers_command(binaries: Binaries, folder: Path) -> list[str]:
    wanted = ("namespace", "serviceaccount", "garbage-collector", "clusterrole-aggregation")
    names = ",".join(f"{name}-controller" for name in wanted)
    return [
        str(binaries.controller_manager),
        f"--kubeconfig={folder}/kubeconfig",
        f"--controllers={names}",
        f"--service-account-private-key-file={folder}/accounts.key",
        f"--root-ca-file={folder}/ca.pem",
        "--leader-elect=false", "--secure-port=0",
    ]  # fmt: skip


def kubeconfig(kubernetes: Kubernetes) -> dict[str, Any]:
    """As kubectl reads it; JSON is YAML."""
    ca = base64.b64encode(kubernetes.ca.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": kubernetes.url, "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": kubernetes.admin_token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def external_workload() -> dict[str, Any]:
    """Linkerd's definition, as far as schema and version go."""
    schema = {**EXTERNAL_WORKLOAD, "properties": {"metadata": {"type": "object"}, **EXTERNAL_WORKLOAD["properties"]}}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    plural = "externalworkloads"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.workload.linkerd.io"},
        "spec": {
            "group": "workload.linkerd.io",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": "ExternalWorkload", "listKind": "ExternalWorkloadList"},
            "versions": [{**version, "subresources": {"status": {}}}],
        },
    }


def define(client: httpx.Client, definition: dict[str, Any]) -> None:
    """Install a definition, and wait until it is served."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    answer = client.post(path, json=definition)
    assert answer.status_code == 201, answer.text
    deadline = time.monotonic() + START_TIME
    while time.monotonic() < deadline:
        found = client.get(f"{path}/{definition['metadata']['name']}").json()
        if any(
            (one["type"], one["status"]) == ("Established", "True")
            for one in found.get("status", {}).get("conditions") or ()
        ):
            break
    spec = definition["spec"]
    served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    while client.get(served).status_code != 200:
        assert time.monotonic() < deadline, f"{served} is not served"


@contextmanager
def client_of(kubernetes: Kubernetes) -> Iterator[httpx.Client]:
    """A client of the administrator."""
    headers = {"Authorization": f"Bearer {kubernetes.admin_token}"}
    context = ssl.create_default_context(cadata=kubernetes.ca)
    with httpx.Client(base_url=kubernetes.url, verify=context, headers=headers, timeout=30, trust_env=False) as client:
        yield client


def wait_ready(kubernetes: Kubernetes, log: Path) -> None:
    """Wait until the API server says that it is."""
    deadline = time.monotonic() + START_TIME
    with client_of(kubernetes) as client:
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"kube-apiserver is not ready:\n{log.read_text()[-3000:]}"
            time.sleep(0.1)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a program while the block runs."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port
