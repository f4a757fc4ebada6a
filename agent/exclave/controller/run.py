"""The controller: watches, and a look at each Member and group whenever something that concerns it changes.

Rules: nothing is looked at before every watch has told what there is. A look asks `steps.next_step` again and again and
carries out what it says; what it decides on is one value, so that a crash between two steps costs nothing. Groups are
looked at to publish their settings. If the controller is away, nothing that runs breaks. One replica works; where
several are started, whoever elects a leader opens this for the leader alone.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from exclave.cluster import Access, Cluster, open_cluster
from exclave.cluster.requests import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SECRETS,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    Resource,
    create,
    delete,
    list_all,
    patch,
)
from exclave.controller.caches import Cache, Caches, Key
from exclave.controller.carry import Carrier
from exclave.controller.expiry import expired_accounts
from exclave.controller.publish import HEARTBEAT, settings_object, settings_of
from exclave.controller.queue import WorkQueue
from exclave.controller.reap import Wait
from exclave.controller.steps import next_step
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.nursery import open_bare_nursery
from exclave.kit.supervise import supervise
from exclave.kit.wall import Now
from exclave.member.spec import accounts_namespace, settings_name

log = logging.getLogger(__name__)

ISSUER = "exclave-issuer"
WORKERS = 8
"""Looks at once: each is a few requests long, and the API server is the limit."""

MOST_STEPS = 30
"""Steps of one look; more would mean that two rules contradict each other."""

EXPIRY_EVERY = 30.0
"""Seconds between looks for join accounts that have expired."""

Work = tuple[Literal["member", "group"], Key]


@dataclass(frozen=True)
class Place:
    """Where things are: the controller's own namespace (with the issuer's Secret), and Linkerd's."""

    namespace: str = "exclave"
    linkerd: str = "linkerd"


class Controller:
    """One running controller. `ready` is set when every watch has told what there is."""

    def __init__(self, cluster: Cluster, place: Place, now: Now, draw: Callable[[], float]) -> None:
        self.ready = trio.Event()
        self._cluster = cluster
        self._place = place
        self._now = now
        self._caches = Caches(place.namespace, place.linkerd)
        self._carrier = Carrier(cluster, lambda: self._caches.issuer, now)
        self._queue: WorkQueue[Work] = WorkQueue(self._look, draw)

    async def run(self) -> None:
        """Work for ever."""
        caches, place = self._caches, self._place
        watches: list[tuple[Cache, Resource, str | None, str | None, Callable[[list[Key]], None]]] = [
            (caches.groups, WORKLOAD_GROUPS, None, None, self._groups_changed),
            (caches.members, MEMBERS, None, None, self._members_changed),
            (caches.workloads, EXTERNAL_WORKLOADS, None, None, self._members_changed),
            (caches.leases, LEASES, None, None, self._leases_changed),
            (caches.config, CONFIG_MAPS, place.linkerd, "linkerd-config", self._mesh_changed),
            (caches.anchors, CONFIG_MAPS, place.linkerd, "linkerd-identity-trust-roots", self._mesh_changed),
            (caches.secret, SECRETS, place.namespace, ISSUER, self._mesh_changed),
            (caches.linkerd_slices, ENDPOINT_SLICES, place.linkerd, None, self._mesh_changed),
            (caches.dns_slices, ENDPOINT_SLICES, "kube-system", None, self._mesh_changed),
        ]
        async with open_bare_nursery() as nursery:
            for cache, resource, namespace, name, changed in watches:
                part = partial(self._follow, cache, resource, namespace, name, changed)
                nursery.start_soon(supervise, f"watch of {resource.plural}", part)
            nursery.start_soon(self._note_outages)
            await self.ready.wait()
            caches.watching_since = self._now()
            self._start_all()
            log.info("controller: %d groups, %d members", len(caches.groups.objects), len(caches.members.objects))
            nursery.start_soon(self._queue.run, WORKERS)
            nursery.start_soon(self._tick)
            nursery.start_soon(supervise, "join accounts", self._expire)

    async def _follow(
        self,
        cache: Cache,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        changed: Callable[[list[Key]], None],
    ) -> None:
        async with self._cluster.watch(resource, namespace, name) as events:
            async for event in events:
                changed(cache.take(event))
                self._check_synced()

    def _check_synced(self) -> None:
        caches = self._caches
        watched = (
            caches.groups, caches.members, caches.workloads, caches.leases, caches.config, caches.anchors,
            caches.secret, caches.linkerd_slices, caches.dns_slices,
        )  # fmt: skip
        if all(cache.synced for cache in watched):
            self.ready.set()

    async def _note_outages(self) -> None:
        """A Lease that nobody could see change is not stale: count from when the server was reached again."""
        reachable = self._cluster.reachable
        while True:
            await reachable.wait_for(lambda value: not value)
            await reachable.wait_for(lambda value: value)
            self._caches.watching_since = self._now()

    def _start_all(self) -> None:
        self._caches.refresh_mesh(self._now())
        for key in self._caches.leases.objects:
            self._caches.see_lease(key, self._now())
        self._caches.refresh_live(self._now())
        self._groups_changed(list(self._caches.groups.objects))

    # What changed, and who must be looked at because of it.

    def _members_changed(self, keys: list[Key]) -> None:
        for key in keys:
            self._queue.add_nowait(("member", key))

    def _leases_changed(self, keys: list[Key]) -> None:
        now = self._now()
        waking = [key for key in keys if self._caches.see_lease(key, now)]
        if waking:
            self._members_changed([*waking, *self._caches.refresh_live(now)])

    def _groups_changed(self, keys: list[Key]) -> None:
        for namespace, name in keys:
            self._queue.add_nowait(("group", (namespace, name)))
            self._members_changed(self._caches.members_of(namespace, name))

    def _mesh_changed(self, _: list[Key]) -> None:
        if self._caches.refresh_mesh(self._now()):
            self._groups_changed(list(self._caches.groups.objects))

    # Looks.

    async def _look(self, work: Work) -> float | None:
        kind, key = work
        if kind == "group":
            await self._publish(key)
            return None
        world = self._caches.world(key, self._now())
        if world is None:
            return None
        for _ in range(MOST_STEPS):
            step = next_step(world)
            if step is None:
                return None
            if isinstance(step, Wait):
                return step.seconds
            log.debug("%s/%s: %s", *key, type(step).__name__)
            changed = await self._carrier.carry(step, world)
            self._caches.keep(key, changed)
            if changed is None:
                return None
            world = changed.seen(now=self._now())
        raise ValueError("more steps than there are things to do")

    async def _publish(self, key: Key) -> None:
        """Write a group's settings if they changed, then let its members know."""
        group, mesh = self._caches.group(key), self._caches.mesh
        if group is None or mesh is None:
            return
        text, digest = settings_of(group, mesh)
        if self._caches.published.get(key) == digest:
            return
        body = settings_object(group, text)
        try:
            await self._cluster.send(
                patch(CONFIG_MAPS, group.namespace, settings_name(group.name), {"data": body["data"]})
            )
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            await self._cluster.send(create(CONFIG_MAPS, group.namespace, body))
        self._caches.published[key] = digest
        log.info("settings of %s/%s: %s", *key, digest[:12])
        self._members_changed(self._caches.members_of(*key))

    async def _tick(self) -> None:
        """Time alone changes who is live, and whether an issuer's certificate is valid."""
        while True:
            await trio.sleep(HEARTBEAT / 2)
            self._mesh_changed([])
            self._members_changed(list(self._caches.refresh_live(self._now())))

    async def _expire(self) -> None:
        """Delete join accounts whose time has come."""
        while True:
            for namespace in sorted({namespace for namespace, _ in self._caches.groups.objects}):
                try:
                    listed = await self._cluster.send(list_all(SERVICE_ACCOUNTS, accounts_namespace(namespace)))
                    for name in expired_accounts(listed.get("items") or (), self._now()):
                        log.info("join account %s has expired", name)
                        await self._cluster.send(delete(SERVICE_ACCOUNTS, accounts_namespace(namespace), name))
                except ClusterError as problem:
                    log.warning("join accounts in %s: %s", accounts_namespace(namespace), problem)
            await trio.sleep(EXPIRY_EVERY)


@asynccontextmanager
async def open_controller(
    cluster: Cluster, place: Place, now: Now, draw: Callable[[], float] = random.random
) -> AsyncIterator[Controller]:
    """Control while open; yields when every watch has told what there is."""
    controller = Controller(cluster, place, now, draw)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(controller.run)
        await controller.ready.wait()
        yield controller
        nursery.cancel_scope.cancel()


async def run_controller(access: Access, token_file: Path, place: Place, now: Now) -> None:
    """Control for ever, with the token that stands in a file and is read anew for each request, since it rotates."""
    async with open_cluster(access, lambda: token_file.read_text().strip(), now) as cluster:
        async with open_controller(cluster, place, now):
            log.info("controller: ready")
            await trio.sleep_forever()
