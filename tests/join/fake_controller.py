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
from pathlib import Path
from typing import Any

import trio

from exclave.admin.objects import Manifest
from exclave.api.delivery import seal
from exclave.api.issuer import Issuer
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
    Resource,
    delete,
    patch,
)
from exclave.api.settings import digest, render_settings
from exclave.cluster.client import open_cluster
from exclave.cluster.watch import Listed, Upserted
from exclave.controller.policy.sign import sign
from exclave.errors import ApiRefusal
from exclave.kit.formats.times import rfc3339
from exclave_sandbox.apiserver.kinds import kinds
from support.mesh import GROUP, NAMESPACE, make_settings, mesh
from support.mesh_cluster import MeshCluster, running_apiserver

VMS = f"{NAMESPACE}-vms"

BINDING = {
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": f"system:serviceaccounts:{VMS}"},
    ],
}


def manifest(resource: Resource, namespace: str | None, name: str, **body: Any) -> Manifest:
    typed = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
    return Manifest(resource, namespace, typed | body)


@dataclass
class FakeController(MeshCluster):
    """Admits Members while `admits`, unless `refuses` (reason, message). `spoil` changes a status before a write."""

    admits: bool = True
    refuses: tuple[str, str] | None = None
    spoil: Callable[[dict[str, Any]], object] = field(default=lambda _status: None)

    def __post_init__(self) -> None:
        self.issuer = self.mesh.issuer
        self.settings = make_settings(self.mesh.anchor.pem)

    async def create_objects(self) -> None:
        """Create what exists before a join."""
        await self.put(
            [
                *(manifest(NAMESPACES, None, name) for name in (NAMESPACE, VMS)),
                manifest(CLUSTER_ROLE_BINDINGS, None, "machines", **BINDING),
                manifest(
                    CONFIG_MAPS,
                    NAMESPACE,
                    f"exclave-mesh.{GROUP}",
                    data={"settings.json": render_settings(self.settings)},
                ),
            ]
        )

    async def revoke(self, account: str) -> None:
        """Delete a machine's account, which ends its tokens."""
        await self.admin.send(delete(SERVICE_ACCOUNTS, VMS, account))

    def members(self) -> list[MemberView]:
        """All Members, by name."""
        kind = next(kind for kind in kinds.KINDS if kind.resource == MEMBERS)
        return [view_member(found) for found in self.api.server.store.select(kind, NAMESPACE)]

    async def wait_member(self, accept: Callable[[MemberView], bool] = lambda _: True) -> MemberView:
        """Wait until there is an acceptable Member."""
        async with self.admin.watch(MEMBERS, NAMESPACE) as events:
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
            async with self.admin.watch(MEMBERS, NAMESPACE) as events:
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
        account, spec = (
            parse_member_name(view.name).account,
            {"meshTLS": {"identity": "spiffe://x", "serverName": "web"}},
        )
        await self.put(
            [
                manifest(SERVICE_ACCOUNTS, VMS, account),
                manifest(LEASES, NAMESPACE, view.name, spec={}),
                manifest(EXTERNAL_WORKLOADS, NAMESPACE, view.name, spec=spec),
            ]
        )
        issuer = Issuer((self.issuer.certificate,), self.issuer.key)
        signed = sign(view.csr, view.name, self.settings.identity, 86400, issuer, now=time.time(), serial=1)
        status = {
            "conditions": [make_condition(Condition("Admitted", True, "Admitted", "welcome"), time.time())],
            "certificate": {
                "csrSha256": signed.csr_sha256,
                "chain": signed.chain,
                "notAfter": rfc3339(signed.not_after),
            },
            "credential": seal(await self.token_of(VMS, account), view.delivery_key),
            "settings": digest(render_settings(self.settings)),
        }
        self.spoil(status)
        await self._write(view.name, status)

    async def _remove_credentials(self) -> None:
        async with self.admin.watch(LEASES, NAMESPACE) as events:
            async for event in events:
                if isinstance(event, Upserted) and event.object["spec"].get("renewTime"):
                    await self._write(event.object["metadata"]["name"], {"credential": None})

    async def _write(self, name: str, status: dict[str, Any]) -> None:
        try:
            await self.admin.send(patch(MEMBERS, NAMESPACE, name, {"status": status}, "status"))
        except ApiRefusal as refusal:
            assert refusal.status == 404, refusal


@asynccontextmanager
async def open_fake_controller(directory: Path) -> AsyncIterator[FakeController]:
    """An API server and a fake controller."""
    async with running_apiserver(directory) as api:
        async with open_cluster(api.access, lambda: api.admin_token) as admin:
            controller = FakeController(api, admin, mesh())
            await controller.create_objects()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(controller.serve)
                yield controller
                nursery.cancel_scope.cancel()
