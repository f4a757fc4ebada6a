"""A real Kubernetes for the demo: etcd, kube-apiserver and kube-controller-manager, run while open.

Rules: the binaries are found or their absence is said, with the command that makes them; they are never fetched here.
Keys are made anew each time. An outage is a kill of the API server's process; etcd keeps what there is. What the
sandbox's own API server counts of requests is not counted here.
"""

import json
import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import httpx
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.api.definitions.crds import custom_resource_definitions
from exclave.api.requests import CUSTOM_RESOURCE_DEFINITIONS, Object, path_of
from exclave.errors import ExclaveError, Fault
from exclave.kit.host.atomic import write_atomic
from exclave_sandbox.expect import UnexpectedError
from exclave_sandbox.linkerd.external_workload import external_workload_definition
from exclave_sandbox.pki import make_anchor, make_leaf
from exclave_sandbox.stage.control_plane import (
    NEWEST,
    RELEASES,
    Binaries,
    Layout,
    apiserver_command,
    binaries_in,
    cache_folder,
    controllers_command,
    etcd_command,
    kubeconfig,
)
from exclave_sandbox.stage.programs import Program, open_program, start

START_TIME = 120.0
"""Seconds that an API server may take until it is ready, on a machine with other things to do."""


@dataclass
class Kubernetes:
    """A running one: its URL, its CA (PEM), and a token that may do everything. `version` is what it says of itself."""

    url: str
    ca: str
    admin_token: str = field(repr=False)
    _command: list[str] = field(repr=False)
    _log: Path = field(repr=False)
    _apiserver: Program = field(repr=False)
    version: str = "Kubernetes"

    async def close(self) -> None:
        """Begin an outage: kill the API server, which else would wait for its watchers."""
        self._apiserver.send(signal.SIGKILL)
        await self._apiserver.wait()

    async def open(self) -> None:
        """End an outage: start the API server again; return when it is ready."""
        self._apiserver = start(self._command, self._log, in_machine=False)
        await self._wait_ready()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """An administrator's, which knows nothing of what is tried here."""
        tls = ssl.create_default_context(cadata=self.ca)
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        async with httpx.AsyncClient(base_url=self.url, verify=tls, headers=headers, trust_env=False) as client:
            yield client

    async def _wait_ready(self) -> None:
        with trio.move_on_after(START_TIME):
            async with self._client() as client:
                while True:
                    if await _answers(client, "/readyz"):
                        self.version = f"Kubernetes {(await client.get('/version')).json()['gitVersion']}"
                        return
                    await trio.sleep(0.1)
        raise UnexpectedError(f"kube-apiserver is not ready:\n{self._apiserver.last_words()}")

    async def _define(self, definition: Object) -> None:
        """Install a definition, and wait until it is served."""
        spec = definition["spec"]
        served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        async with self._client() as client:
            answer = await client.post(path_of(CUSTOM_RESOURCE_DEFINITIONS, None), json=definition)
            answer.raise_for_status()
            while not await _answers(client, served):  # noqa: ASYNC110  another program's state
                await trio.sleep(0.05)


async def _answers(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def find_binaries(release: str = NEWEST) -> Binaries:
    """The programs of a release. Raises ExclaveError if they have not been built here."""
    cache = cache_folder(os.environ, Path.home())
    found = binaries_in(cache, release)
    missing = [path.name for path in found.all if not path.is_file()]
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


@asynccontextmanager
async def open_kubernetes(binaries: Binaries, layout: Layout) -> AsyncIterator[Kubernetes]:
    """Run one while open, with our definitions and Linkerd's. Raises UnexpectedError if it does not come up.

    The administrator's token and the CA stand in the layout's folder, as `admin.token` and `ca.pem`.
    """
    token, directory = secrets.token_urlsafe(32), layout.folder
    ca = write_keys(layout, token)
    write_atomic(directory / "admin.token", token.encode())
    write_atomic(directory / "kubeconfig", json.dumps(kubeconfig(layout.url, ca, token)).encode())
    run = partial(open_program, in_machine=False)
    async with run(etcd_command(binaries, layout), directory / "etcd.log"):
        command, log = apiserver_command(binaries, layout), directory / "kube-apiserver.log"
        kubernetes = Kubernetes(layout.url, ca, token, command, log, start(command, log, in_machine=False))
        try:
            await kubernetes._wait_ready()
            async with run(controllers_command(binaries, directory), directory / "kube-controller-manager.log"):
                for definition in (*custom_resource_definitions(), external_workload_definition()):
                    await kubernetes._define(definition)
                yield kubernetes
        finally:
            with trio.CancelScope(shield=True):
                await kubernetes.close()
