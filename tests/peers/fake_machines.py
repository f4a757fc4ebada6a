"""Machines without a data path: a key, a credential, and what they write to the cluster.

    machine = await become(thread, await cluster.join_token(token_id="aaaaa"), "10.77.0.5")
    thread.nursery.start_soon(machine.live)          # heartbeats, until the thread ends
    await machine.send(patch(MEMBERS, *machine.place, {...}))

Each has its own machine id, so that none counts as a clone of another.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.delivery import delivery_key_text, unseal
from exclave.api.join_token import JoinToken
from exclave.api.member import Certificate, MemberView, heartbeat_request, member_object, view_member
from exclave.api.requests import MEMBERS, Object, Request, Resource, create, patch
from exclave.cluster.client import open_cluster
from exclave.cluster.watch import Upserted
from exclave.controller.policy.admit import NOT_READY
from exclave.errors import ApiRefusal
from support.cluster_thread import ClusterThread
from support.mesh_cluster import MeshCluster

HEARTBEAT = 10.0
IDS = itertools.count(0xA000)


@dataclass
class Machine:
    """A member: its delivery key, its credential, and the boot that its heartbeats name."""

    thread: ClusterThread
    namespace: str
    name: str
    address: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    credential: str = field(repr=False)
    stopped: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def place(self) -> tuple[str, str]:
        """Where its objects are."""
        return self.namespace, self.name

    async def send(self, request: Request) -> Object:
        """Ask with its credential. Raises ClusterError."""
        async with open_cluster(self.thread.cluster.api.access, lambda: self.credential) as own:
            return await own.send(request)

    async def beat(self) -> None:
        """One heartbeat."""
        await self.send(heartbeat_request(*self.place, f"boot.{self.name}", self.thread.now()))

    async def live(self) -> None:
        """Send heartbeats until `stopped` is cancelled, or none is taken any more."""
        with self.stopped, contextlib.suppress(ApiRefusal):
            async with open_cluster(self.thread.cluster.api.access, lambda: self.credential) as own:
                while True:
                    await own.send_patiently(heartbeat_request(*self.place, f"boot.{self.name}", self.thread.now()))
                    await trio.sleep(HEARTBEAT)

    async def serve(self) -> None:
        """Say that it serves, and wait until its ports are listed."""
        await self.send(patch(MEMBERS, *self.place, {"spec": {"serving": True}}))
        await seen(self.thread.cluster, MEMBERS, self.place, lambda found: view_member(found).workload_ports == (8080,))

    async def certified(self, csr: str) -> Certificate:
        """Ask for a certificate, and wait until there is one for exactly this CSR."""
        await self.send(patch(MEMBERS, *self.place, {"spec": {"csr": csr}}))

        def is_there(found: Object) -> bool:
            certificate = view_member(found).certificate
            return certificate is not None and certificate.csr_sha256 == csr_sha256(csr)

        certificate = view_member(await seen(self.thread.cluster, MEMBERS, self.place, is_there)).certificate
        assert certificate is not None
        return certificate


async def ask_to_join(
    cluster: MeshCluster, token: JoinToken, address: str, key: ec.EllipticCurvePrivateKey, csr: str | None = None
) -> MemberView:
    """Make the first Member of a token, and wait until the controller has admitted or refused it."""
    name = token.member_names[0]
    body = member_object(
        token.namespace,
        name,
        nonce=f"nonce of {name}",
        machine_hash=f"{next(IDS):016x}",
        delivery_key=delivery_key_text(key),
        csr=csr or make_csr(key, name),
        addresses=[address],
        facts={},
    )
    async with open_cluster(cluster.api.access, lambda: token.token) as joiner:
        await joiner.send(create(MEMBERS, token.namespace, body))

    def is_decided(found: Object) -> bool:
        view = view_member(found)
        if view.admitted is None or view.admitted.reason == NOT_READY:
            return False
        return not view.admitted.status or view.credential is not None

    return view_member(await seen(cluster, MEMBERS, (token.namespace, name), is_decided))


async def become(thread: ClusterThread, token: JoinToken, address: str) -> Machine:
    """Join, and send the first heartbeat."""
    key = ec.generate_private_key(ec.SECP256R1())
    view = await ask_to_join(thread.cluster, token, address, key)
    assert view.admitted is not None and view.admitted.status, view.admitted
    assert view.credential is not None
    machine = Machine(thread, token.namespace, view.name, address, key, unseal(view.credential, key))
    await machine.beat()
    return machine


async def seen(
    cluster: MeshCluster, resource: Resource, place: tuple[str, str], accept: Callable[[Object], bool]
) -> Object:
    """Follow an object until it is acceptable."""
    with trio.fail_after(300):
        async with cluster.admin.watch(resource, *place) as events:
            async for event in events:
                if isinstance(event, Upserted) and accept(event.object):
                    return event.object
    raise AssertionError("the watch has ended")


async def gone(cluster: MeshCluster, resource: Resource, place: tuple[str, str]) -> None:
    """Follow an object until there is none."""
    with trio.fail_after(300):
        async with cluster.admin.watch(resource, *place) as events:
            async for event in events:
                if not isinstance(event, Upserted):
                    return
