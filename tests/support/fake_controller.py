"""A controller that only does what a join needs: it admits or refuses Members, on the sandbox's API server.

As the real one it makes account, Lease and ExternalWorkload first, then writes condition, certificate, sealed
credential and settings at once.

    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from exclave.api.csr import csr_sha256, read_csr
from exclave.api.delivery import seal
from exclave.api.join_token import JoinToken
from exclave.api.member import Condition, MemberView, make_condition, view_member
from exclave.api.names import parse_member_name
from exclave.api.requests import (
    CLUSTER_ROLE_BINDINGS,
    CONFIG_MAPS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
    create,
    create_token,
    delete,
    patch,
)
from exclave.api.settings import Settings, digest, render_settings
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.watch import Listed, Upserted
from exclave.errors import ApiRefusal
from exclave.kit.formats.times import rfc3339
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, pem_of
from support.mesh import GROUP, NAMESPACE, make_settings
from support.mesh_cluster import RunningApiServer, running_apiserver

TOKEN_ID = "k7q2x"
VMS = f"{NAMESPACE}-vms"

BINDING = {
    "metadata": {"name": "machines"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": f"system:serviceaccounts:{VMS}"},
    ],
}


def sign(issuer: Authority, csr: str, settings: Settings) -> str:
    """A chain for a CSR as the controller signs it."""
    now, identity = datetime.now(timezone.utc), settings.identity
    names = [x509.DNSName(identity.dns_name), x509.UniformResourceIdentifier(identity.spiffe_id)]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "member")]))
        .issuer_name(issuer.certificate.subject)
        .public_key(read_csr(csr).public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=10))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return pem_of(leaf) + issuer.pem


@dataclass
class FakeController:
    """Admits Members while `admits`, unless `refuses` (reason, message). `spoil` changes a status before a write."""

    api: RunningApiServer
    cluster: Cluster
    anchor: Authority
    admits: bool = True
    refuses: tuple[str, str] | None = None
    spoil: Callable[[dict[str, Any]], object] = field(default=lambda _status: None)

    def __post_init__(self) -> None:
        self.issuer = make_issuer(self.anchor)
        self.settings = make_settings(self.anchor.pem)

    async def create_objects(self) -> None:
        """Create what exists before a join."""
        for name in (NAMESPACE, VMS):
            await self.put(NAMESPACES, None, name)
        await self.put(CLUSTER_ROLE_BINDINGS, None, "machines", **BINDING)
        data = {"settings.json": render_settings(self.settings)}
        await self.put(CONFIG_MAPS, NAMESPACE, f"exclave-mesh.{GROUP}", data=data)

    async def put(self, resource: Resource, namespace: str | None, name: str, **body: Any) -> None:
        """Create an object unless it exists."""
        typed = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
        try:
            await self.cluster.send(create(resource, namespace, typed | body))
        except ApiRefusal as refusal:
            assert refusal.status == 409, refusal

    async def mint(self, account: str) -> str:
        """A token of a machine's account."""
        answer = await self.cluster.send(create_token(VMS, account, 3600))
        return str(answer["status"]["token"])

    async def join_token(self, uses: int = 1, expires_in: float = 3600.0, token_id: str = TOKEN_ID) -> JoinToken:
        """A token as `token create` makes it."""
        account = f"{GROUP}.join.{token_id}-{uses}"
        await self.put(SERVICE_ACCOUNTS, VMS, account)
        access, token = self.api.access, await self.mint(account)
        return JoinToken(access.servers, access.ca, NAMESPACE, GROUP, token, time.time() + expires_in)

    async def revoke(self, account: str) -> None:
        """Delete a machine's account, which ends its tokens."""
        await self.cluster.send(delete(SERVICE_ACCOUNTS, VMS, account))

    def find(self, resource: Resource, name: str) -> Object | None:
        """An object of the group's namespace, None if there is none."""
        kind = next(kind for kind in kinds.KINDS if kind.resource == resource)
        return self.api.server.store.find(kind, NAMESPACE, name)

    def members(self) -> list[MemberView]:
        """All Members, by name."""
        kind = next(kind for kind in kinds.KINDS if kind.resource == MEMBERS)
        return [view_member(found) for found in self.api.server.store.select(kind, NAMESPACE)]

    async def wait_member(self, accept: Callable[[MemberView], bool] = lambda _: True) -> MemberView:
        """Wait until there is an acceptable Member."""
        async with self.cluster.watch(MEMBERS, NAMESPACE) as events:
            async for event in events:
                found = event.objects if isinstance(event, Listed) else (event.object,)
                for view in map(view_member, found):
                    if accept(view):
                        return view
        raise AssertionError

    async def serve(self) -> None:
        """Admit or refuse new Members for ever, and remove a credential at the first heartbeat."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._remove_credentials)
            async with self.cluster.watch(MEMBERS, NAMESPACE) as events:
                async for event in events:
                    if isinstance(event, Upserted):
                        await self._observe(view_member(event.object))

    async def _observe(self, view: MemberView) -> None:
        if view.admitted is not None:
            return
        if self.refuses is not None:
            refused = Condition("Admitted", False, *self.refuses)
            await self._write(view.name, {"conditions": [make_condition(refused, time.time())]})
        elif self.admits:
            await self.admit(view)

    async def admit(self, view: MemberView) -> None:
        account = parse_member_name(view.name).account
        await self.put(SERVICE_ACCOUNTS, VMS, account)
        await self.put(LEASES, NAMESPACE, view.name, spec={})
        spec = {"meshTLS": {"identity": "spiffe://x", "serverName": "web"}}
        await self.put(EXTERNAL_WORKLOADS, NAMESPACE, view.name, spec=spec)
        status = {
            "conditions": [make_condition(Condition("Admitted", True, "Admitted", "welcome"), time.time())],
            "certificate": {
                "csrSha256": csr_sha256(view.csr),
                "chain": sign(self.issuer, view.csr, self.settings),
                "notAfter": rfc3339(time.time() + 86400),
            },
            "credential": seal(await self.mint(account), view.delivery_key),
            "settings": digest(render_settings(self.settings)),
        }
        self.spoil(status)
        await self._write(view.name, status)

    async def _remove_credentials(self) -> None:
        async with self.cluster.watch(LEASES, NAMESPACE) as events:
            async for event in events:
                if isinstance(event, Upserted) and event.object["spec"].get("renewTime"):
                    await self._write(event.object["metadata"]["name"], {"credential": None})

    async def _write(self, name: str, status: dict[str, Any]) -> None:
        try:
            await self.cluster.send(patch(MEMBERS, NAMESPACE, name, {"status": status}, "status"))
        except ApiRefusal as refusal:
            assert refusal.status == 404, refusal


@asynccontextmanager
async def open_fake_controller(directory: Path) -> AsyncIterator[FakeController]:
    """An API server and a fake controller."""
    async with running_apiserver(directory) as api:
        async with open_cluster(api.access, lambda: api.admin_token) as cluster:
            controller = FakeController(api, cluster, make_anchor())
            await controller.create_objects()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(controller.serve)
                yield controller
                nursery.cancel_scope.cancel()
