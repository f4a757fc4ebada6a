"""The programs of a Kubernetes control plane, as command lines and files for one machine. Pure.

Rules: etcd, kube-apiserver and kube-controller-manager; nothing runs pods. All files are in one folder, and etcd
listens on loopback only. Admission plugins are the defaults, authorization is RBAC, and one token may do everything.
The binaries are in a cache outside of the checkout: `etcd`, and the others in a folder per version.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELEASES = {"1.37": "v1.37.2", "1.30": "v1.30.14"}
"""The newest release, and the oldest that exclave works with."""

NEWEST = "1.37"
AUDIENCE = "https://kubernetes.default.svc"
CONTROLLERS = ("namespace", "serviceaccount", "garbage-collector", "clusterrole-aggregation")
"""The controllers of kube-controller-manager that run."""


@dataclass(frozen=True)
class Binaries:
    """The paths of the programs."""

    etcd: Path
    apiserver: Path
    controller_manager: Path

    def missing(self) -> list[Path]:
        """Those that have not been built here."""
        return [path for path in (self.etcd, self.apiserver, self.controller_manager) if not path.is_file()]


@dataclass(frozen=True)
class Layout:
    """The folder, address and ports of one control plane."""

    folder: Path
    address: str
    port: int
    etcd_port: int
    peer_port: int

    @property
    def url(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.port}"


def cache_folder(environment: Mapping[str, str], home: Path) -> Path:
    """The folder of the binaries: `$EXCLAVE_PEERS`, or ~/.cache/exclave/peers."""
    named = environment.get("EXCLAVE_PEERS")
    return Path(named) if named else home / ".cache" / "exclave" / "peers"


def binaries_in(cache: Path, release: str) -> Binaries:
    """The paths of a release's programs, built or not."""
    folder = cache / RELEASES[release]
    return Binaries(cache / "etcd", folder / "kube-apiserver", folder / "kube-controller-manager")


def etcd_command(binaries: Binaries, layout: Layout) -> list[str]:
    """One member, which does not wait for the disk: its data is dropped at the end."""
    here, there = f"http://127.0.0.1:{layout.etcd_port}", f"http://127.0.0.1:{layout.peer_port}"
    return [
        str(binaries.etcd), f"--data-dir={layout.folder}/etcd", "--unsafe-no-fsync",
        f"--listen-client-urls={here}", f"--advertise-client-urls={here}",
        f"--listen-peer-urls={there}", f"--initial-advertise-peer-urls={there}", f"--initial-cluster=default={there}",
    ]  # fmt: skip


def apiserver_command(binaries: Binaries, layout: Layout) -> list[str]:
    """With the files of `kubernetes.write_keys`."""
    folder = layout.folder
    return [
        str(binaries.apiserver),
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={layout.address}", f"--secure-port={layout.port}", "--advertise-address=192.0.2.1",
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
    """Garbage collection, deletion of namespaces, and their default accounts."""
    return [
        str(binaries.controller_manager),
        f"--kubeconfig={folder}/kubeconfig",
        f"--controllers={','.join(f'{name}-controller' for name in CONTROLLERS)}",
        f"--service-account-private-key-file={folder}/accounts.key",
        f"--root-ca-file={folder}/ca.pem",
        "--leader-elect=false", "--secure-port=0",
    ]  # fmt: skip


def kubeconfig(url: str, ca: str, token: str) -> dict[str, Any]:
    """A kubeconfig as a tree; kubectl reads it as JSON, too."""
    encoded = base64.b64encode(ca.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority-data": encoded}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
