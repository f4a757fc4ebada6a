"""A real Kubernetes for the demo and the tests: etcd, kube-apiserver and kube-controller-manager, run while open.

Nothing runs pods. The binaries are in a cache outside of the checkout, or reported missing. Every run has new keys, and
one token that may do everything. All calls block but those of `open_kubernetes` and of an outage.
"""

import base64
import json
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.api.definitions.manifests import custom_resource_definitions
from exclave.api.requests import CUSTOM_RESOURCE_DEFINITIONS, Object, path_of
from exclave.errors import ExclaveError, Fault
from exclave.kit.host.files import write_atomic
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.expect import UnexpectedError
from exclave_sandbox.linkerd.external_workload import external_workload_definition
from exclave_sandbox.pki import make_anchor, make_leaf
from exclave_sandbox.stage.programs import StageProgram

RELEASES = {"1.37": "v1.37.2", "1.30": "v1.30.14"}  # the newest release, and the oldest that exclave works with
NEWEST = "1.37"
AUDIENCE = "https://kubernetes.default.svc"
CONTROLLERS = ("namespace", "serviceaccount", "garbage-collector", "clusterrole-aggregation")  # those that run


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


START_TIME = 120.0  # seconds that an API server may take until it is ready, on a busy machine
CLOSE_TIME = 10.0  # seconds for all three of its programs to end
_POLL_PAUSE = 0.1


@dataclass
class Kubernetes:
    """A running one. `ca` is PEM, `version` such as "v1.37.2", once it has been ready."""

    url: str
    ca: str
    folder: Path
    etcd: StageProgram
    apiserver: StageProgram
    controllers: StageProgram
    admin_token: str = field(repr=False)
    version: str = ""

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client of the administrator."""
        tls = ssl.create_default_context(cadata=self.ca)
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        with httpx.Client(base_url=self.url, verify=tls, headers=headers, timeout=30, trust_env=False) as client:
            yield client

    def wait_ready(self) -> None:
        """Wait until the API server reports that it is ready. Raises UnexpectedError."""
        with self.client() as client:
            if not _wait_served(client, "/readyz"):
                raise UnexpectedError(f"kube-apiserver is not ready:\n{self.apiserver.log.read_text()[-3000:]}")
            self.version = client.get("/version").json()["gitVersion"]

    def define(self, definition: Object) -> None:
        """Install a CustomResourceDefinition, and wait until it is served. Raises UnexpectedError."""
        spec = definition["spec"]
        path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        with self.client() as client:
            client.post(path_of(CUSTOM_RESOURCE_DEFINITIONS, None), json=definition).raise_for_status()
            if not _wait_served(client, path):
                raise UnexpectedError(f"{path} is not served")

    async def close(self) -> None:
        """Begin an outage: kill the API server, which would wait for every open watch if it were ended in order."""
        await trio.to_thread.run_sync(self.apiserver.kill)

    async def open(self) -> None:
        """End an outage: start the API server again; return when it is ready."""
        self.apiserver.start()
        await trio.to_thread.run_sync(self.wait_ready)


def _wait_served(client: httpx.Client, path: str) -> bool:
    """Poll until a path answers 200; False after START_TIME."""
    deadline = time.monotonic() + START_TIME
    while time.monotonic() < deadline:
        try:
            if client.get(path).status_code == httpx.codes.OK:
                return True
        except httpx.TransportError:
            pass
        time.sleep(_POLL_PAUSE)
    return False


def find_binaries(release: str = NEWEST) -> Binaries:
    """The programs of a release. Raises ExclaveError if they have not been built here."""
    cache = cache_folder(os.environ, Path.home())
    found = binaries_in(cache, release)
    missing = [path.name for path in found.missing()]
    if missing:
        raise ExclaveError(
            Fault.USAGE,
            f"Kubernetes {RELEASES[release]} was expected in {cache}; there is no {', '.join(missing)}",
            f"build it, once: ./agent/demo --kubernetes does, or python tests/peers/building.py {release}",
        )
    return found


def write_keys(layout: Layout, admin_token: str) -> str:
    """CA, the server's certificate, the key that signs accounts' tokens, the administrator's token; the CA as PEM."""
    anchor = make_anchor("kubernetes")
    addresses = {ip_address(layout.address), ip_address("127.0.0.1")}
    names = [x509.DNSName("localhost"), *(x509.IPAddress(address) for address in sorted(addresses, key=str))]
    leaf = make_leaf(anchor, names, common_name="kube-apiserver")
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
        "tokens.csv": f'{admin_token},admin,admin,"system:masters"\n',
    }.items():
        write_atomic(layout.folder / name, text.encode())
    return anchor.pem


@contextmanager
def running_kubernetes(binaries: Binaries, layout: Layout) -> Iterator[Kubernetes]:
    """Run one, with our definitions and Linkerd's, and files to reach it. Raises UnexpectedError if it is not ready."""
    token, folder = secrets.token_urlsafe(32), layout.folder
    ca = write_keys(layout, token)
    write_atomic(folder / "admin.token", token.encode())
    write_atomic(folder / "kubeconfig", json.dumps(kubeconfig(layout.url, ca, token)).encode())
    etcd, apiserver, controllers = (
        StageProgram(command, folder / f"{Path(command[0]).name}.log", in_machine=False)
        for command in (
            etcd_command(binaries, layout),
            apiserver_command(binaries, layout),
            controllers_command(binaries, folder),
        )
    )
    kubernetes = Kubernetes(layout.url, ca, folder, etcd, apiserver, controllers, token)
    with ExitStack() as stack:
        for program in (etcd, apiserver):
            program.start()
            stack.callback(program.kill)  # nothing that they store is read again
        kubernetes.wait_ready()
        for definition in (*custom_resource_definitions(), external_workload_definition()):
            kubernetes.define(definition)
        # Last: a kind that is defined later is found by its garbage collector only within half a minute.
        controllers.start()
        stack.callback(controllers.kill)
        yield kubernetes


@asynccontextmanager
async def open_kubernetes(binaries: Binaries, layout: Layout) -> AsyncIterator[Kubernetes]:
    """The same for trio. Cancelling waits until it is ready, START_TIME at most, and ends it then."""
    stack = ExitStack()
    try:
        yield await trio.to_thread.run_sync(stack.enter_context, running_kubernetes(binaries, layout))
    finally:
        with shielded(CLOSE_TIME):
            await trio.to_thread.run_sync(stack.close)
