"""A cluster with Linkerd's objects on the sandbox's API server, and the real controller under its own account.

async with open_mesh_cluster(tmp_path) as cluster:
    token = await cluster.join_token(uses=2)
    await cluster.api.server.close()  # an outage: every connection is closed, all objects stay
    await cluster.api.server.open()
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exclave.admin.objects import (
    Manifest,
    controller_objects,
    group_objects,
    guard_manifests,
    join_account,
    rejoin_account,
)
from exclave.api.join_token import JoinToken
from exclave.api.names import CONTROLLER, accounts_namespace
from exclave.api.requests import Object, Resource, create, create_token, get
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.controller.run import Locations, open_controller
from exclave.errors import ApiRefusal
from exclave.kit.tasks.wall_clock import Now
from exclave_sandbox.apiserver.main import ApiServer, open_apiserver
from exclave_sandbox.stage.mesh import GROUP, NAMESPACE, group_spec, mesh_requests
from support.mesh import Mesh, mesh


class RunningApiServer(NamedTuple):
    """Where it is, by which CA; an administrator's token; its folder (ca.pem, admin.token); the server itself."""

    access: Access
    admin_token: str
    directory: Path
    server: ApiServer


@asynccontextmanager
async def running_apiserver(
    directory: Path, *, now: Callable[[], float] = time.time
) -> AsyncIterator[RunningApiServer]:
    """Run one while the block runs. `now` is its wall clock (epoch seconds): token expiry, timestamps, Date."""
    async with open_apiserver("127.0.0.1", 0, directory, now=now) as server:
        yield RunningApiServer(Access((server.url,), server.ca), server.admin_token, directory, server)


@dataclass
class MeshCluster:
    """`admin` may do everything; the controller works under its own account."""

    api: RunningApiServer
    admin: Cluster
    mesh: Mesh

    async def put(self, placed: list[Manifest]) -> None:
        """Make objects; those that stand are left alone."""
        for one in placed:
            try:
                await self.admin.send(create(one.resource, one.namespace, one.body))
            except ApiRefusal as refusal:
                assert refusal.status == 409, refusal

    async def token_of(self, namespace: str, account: str) -> str:
        """A Kubernetes token of an account."""
        answer = await self.admin.send(create_token(namespace, account, 3600))
        return str(answer["status"]["token"])

    async def join_token(
        self, uses: int = 1, token_id: str = "k7q2x", namespace: str = NAMESPACE, group: str = GROUP
    ) -> JoinToken:
        """A join token as an admin makes it."""
        return await self._token(join_account(namespace, group, token_id, uses, time.time() + 3600), namespace, group)

    async def rejoin_token(self, member: str) -> JoinToken:
        """A token for one member, whose machine joins again."""
        return await self._token(rejoin_account(NAMESPACE, member, time.time() + 3600), NAMESPACE, GROUP)

    async def _token(self, account: Manifest, namespace: str, group: str) -> JoinToken:
        await self.put([account])
        token = await self.token_of(accounts_namespace(namespace), account.body["metadata"]["name"])
        access = self.api.access
        return JoinToken(access.servers, access.ca, namespace, group, token, float(int(time.time()) + 3600))

    @asynccontextmanager
    async def controlled(self, now: Now = time.time) -> AsyncIterator[None]:
        """With the controller under its own account."""
        token = await self.token_of("exclave", CONTROLLER)
        async with open_cluster(self.api.access, lambda: token) as own, open_controller(own, Locations(), now):
            yield

    async def find(self, resource: Resource, name: str, namespace: str = NAMESPACE) -> Object | None:
        """An object, or None."""
        try:
            return await self.admin.send(get(resource, namespace, name))
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return None
            raise


@asynccontextmanager
async def open_mesh_cluster(directory: Path, *, now: Now = time.time, **options: Any) -> AsyncIterator[MeshCluster]:
    """What `furnished` makes with these options, on the sandbox's API server."""
    async with running_apiserver(directory, now=now) as api, furnished(api, now=now, **options) as cluster:
        yield cluster


@asynccontextmanager
async def furnished(
    api: RunningApiServer,
    *,
    lifetime: str = "24h",
    controlled: bool = True,
    now: Now = time.time,
    **spec: Any,
) -> AsyncIterator[MeshCluster]:
    """Linkerd's objects, group `web`, and the controller, whose clock is `now`; objects that exist are left alone."""
    made = mesh()
    async with open_cluster(api.access, lambda: api.admin_token) as admin:
        cluster = MeshCluster(api, admin, made)
        for request in mesh_requests(made.anchor.pem, made.issuer.pem, made.issuer.key_pem):
            try:
                await admin.send(request)
            except ApiRefusal as refusal:
                assert refusal.status == 409, refusal
        await cluster.put(guard_manifests("exclave"))
        await cluster.put(controller_objects("exclave", "linkerd", "exclave-issuer"))
        await cluster.put(group_objects(NAMESPACE, GROUP, group_spec(lifetime) | spec, "exclave"))
        if not controlled:
            yield cluster
            return
        async with cluster.controlled(now):
            yield cluster
