"""The controller's loop: watches feed a queue, and workers reconcile the Members and groups in it.

Nothing is reconciled before every watch has listed its objects. A Member is reconciled by asking `next_transition` and
executing the answer, again and again, until nothing is left to do. Only the replica that leads runs a Controller; its
cluster refuses writes once it leads no more. While no controller runs, members that run continue to run.
"""

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import trio

from exclave.api.definitions.admission import admission_objects
from exclave.api.member import Condition, MemberView, read_conditions, view_member
from exclave.api.names import group_of_member, settings_name
from exclave.api.requests import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SECRETS,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
    create,
    patch,
)
from exclave.cluster.client import Cluster
from exclave.cluster.watch_events import Upserted
from exclave.controller.cluster_state import CONFIG, Cache, ClusterState, Key, uid_of
from exclave.controller.execute import Executor
from exclave.controller.leader.lead import FencedCluster
from exclave.controller.lease_recheck import recheck_leases
from exclave.controller.mesh.publish import Published, is_worth_publishing, settings_object, settings_of
from exclave.controller.mesh.trust import ANCHORS, ISSUER
from exclave.controller.policy.accept import GroupPatches, accepted_condition, group_patches, is_refused_namespace
from exclave.controller.policy.reap import RecheckAfter
from exclave.controller.policy.snapshot import Group
from exclave.controller.policy.transitions import PutWorkload, next_transition
from exclave.controller.queue import WorkQueue
from exclave.controller.sweep import clear, run_sweeps
from exclave.controller.telemetry.event_writer import EventWriter
from exclave.controller.telemetry.events import (
    Subject,
    admission_event,
    group_events,
    member_events,
    source_events,
    subject_of,
)
from exclave.controller.telemetry.headless import HeadlessWarner
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ApiRefusal
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

ISSUER_NAME = "exclave-issuer"
LINKERD_CONFIG, TRUST_ROOTS = "linkerd-config", "linkerd-identity-trust-roots"

WORKERS = 8
"""Looks at once: each is a few requests long, and the API server is the limit."""

MOST_TRANSITIONS = 30
"""Steps of one look; more would mean that two rules contradict each other."""

TICK = 5.0
"""Seconds between looks at what time alone changes."""

TOLD_A_SECOND = 50.0
"""Members a second that are told of new settings: a fleet does not fetch them in one moment."""

OWNED_BY_ANOTHER = 2.0
"""Seconds after which settings are written again whose ConfigMap goes with an earlier group of the same name."""


@dataclass(frozen=True)
class Work:
    """An object that is to be looked at."""

    kind: Literal["Member", "WorkloadGroup"]
    key: Key

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(self.key)}"


@dataclass(frozen=True)
class Place:
    """Where things are: the controller's own namespace, Linkerd's, and the issuer's Secret (in ours, unless told)."""

    namespace: str = "exclave"
    linkerd: str = "linkerd"
    issuer_namespace: str | None = None
    issuer_name: str = ISSUER_NAME


class Controller:
    """One running controller. `ready` is set when every watch has told what there is."""

    def __init__(self, cluster: Cluster | FencedCluster, place: Place, now: Now, draw: Callable[[], float]) -> None:
        self.ready = trio.Event()
        self._cluster = cluster
        self._place = place
        self._now = now
        self._malformed = MalformedLog(now)
        self._state = ClusterState(place.namespace, place.linkerd, self._malformed)
        self._executor = Executor(cluster, lambda: self._state.issuer, now)
        self._queue: WorkQueue[Work] = WorkQueue(self._look, draw)
        self._guard = admission_objects(place.namespace)
        self._events = EventWriter(cluster, place.namespace, now)
        self._seen: dict[Key, MemberView] = {}  # as last told of
        self._groups_told: dict[Key, Condition] = {}
        self._group_uids: dict[Key, str] = {}  # of the groups that were looked at
        self.counts: Counter[str] = Counter()  # transitions made, by label

    @property
    def state(self) -> ClusterState:
        """What it has seen."""
        return self._state

    async def run(self) -> None:
        """Work for ever."""
        state, place = self._state, self._place
        watches: list[tuple[Cache, Resource, str | None, str | None, Callable[[list[Key]], None]]] = [
            (state.groups, WORKLOAD_GROUPS, None, None, self._groups_changed),
            (state.members, MEMBERS, None, None, self._members_come_and_go),
            (state.workloads, EXTERNAL_WORKLOADS, None, None, self._members_changed),
            (state.leases, LEASES, None, None, self._leases_changed),
            (state.config, CONFIG_MAPS, place.linkerd, LINKERD_CONFIG, self._mesh_changed),
            (state.anchors, CONFIG_MAPS, place.linkerd, TRUST_ROOTS, self._mesh_changed),
            (state.secret, SECRETS, place.issuer_namespace or place.namespace, place.issuer_name, self._mesh_changed),
            (state.linkerd_slices, ENDPOINT_SLICES, place.linkerd, None, self._mesh_changed),
            (state.dns_slices, ENDPOINT_SLICES, "kube-system", None, self._mesh_changed),
        ]
        for one in self._guard:
            kind, named = one["kind"], one["metadata"]["name"]
            policy = kind == VALIDATING_ADMISSION_POLICIES.kind
            watched = VALIDATING_ADMISSION_POLICIES if policy else VALIDATING_ADMISSION_POLICY_BINDINGS
            cache = state.guard[f"{kind} {named}"] = Cache()
            watches.append((cache, watched, None, named, self._guard_changed))
        self._watched = [watch[0] for watch in watches]
        async with open_bare_nursery() as nursery:
            for cache, resource, namespace, name, changed in watches:
                part = partial(self._follow, cache, resource, namespace, name, changed)
                nursery.start_soon(supervise, f"watch of {resource.plural}", part)
            nursery.start_soon(self._note_outages)
            await self.ready.wait()
            state.watching_since = self._now()
            self._start_all()
            log.info("controller: %d groups, %d members", len(state.groups.objects), len(state.members.objects))
            nursery.start_soon(self._queue.run, WORKERS)
            nursery.start_soon(supervise, "clock", self._tick)
            tidied = partial(
                run_sweeps,
                self._cluster,
                self._namespaces,
                lambda: self._state.members.objects,
                self._now,
                self._malformed,
            )
            nursery.start_soon(supervise, "accounts", tidied)
            warner = HeadlessWarner(self._cluster, self._readable_groups, self._events, self._malformed)
            nursery.start_soon(supervise, "headless Services", warner.run)
            nursery.start_soon(supervise, "news", self._events.run)

    def _namespaces(self) -> list[str]:
        return sorted({namespace for namespace, _ in self._state.groups.objects})

    def _readable_groups(self) -> list[Group]:
        found = (self._state.group(key) for key in list(self._state.groups.objects))
        return [group for group in found if group is not None]

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
                changed(cache.apply(event))
                self._check_synced()

    def _check_synced(self) -> None:
        if not self.ready.is_set() and all(cache.synced for cache in self._watched):
            self.ready.set()

    async def _note_outages(self) -> None:
        """A Lease that nobody could see change is not stale: count from when the server was reached again."""
        reachable = self._cluster.reachable
        while True:
            await reachable.wait_for(lambda value: not value)
            await reachable.wait_for(lambda value: value)
            self._state.watching_since = self._now()

    def _start_all(self) -> None:
        self._refresh_mesh()
        self._state.refresh_admission(self._guard)
        if self._state.admission_fault is not None:
            self._tell_of_guard()
        self._state.refresh_heartbeat()
        for key in self._state.leases.objects:
            self._observe_lease(key, self._now())
        self._state.refresh_live(self._now())
        self._state.refresh_members(self._state.members.objects)
        self._groups_changed(list(self._state.groups.objects))

    # What changed, and who must be looked at because of it.

    def _members_changed(self, keys: list[Key]) -> None:
        self._queue_members((*keys, *sorted(self._state.refresh_members(keys))))

    def _queue_members(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add_nowait(Work("Member", key))

    def _members_come_and_go(self, keys: list[Key]) -> None:
        self._members_changed(keys)
        for namespace, name in keys:
            group = (namespace, group_of_member(name))
            held = self._state.groups.objects.get(group)
            if held is not None and held["metadata"].get("deletionTimestamp"):
                self._queue.add_nowait(Work("WorkloadGroup", group))

    def _guard_changed(self, _: list[Key]) -> None:
        if self._state.refresh_admission(self._guard) and self.ready.is_set():
            log.log(logging.ERROR if self._state.admission_fault else logging.INFO, "admission policies: %s",
                    self._state.admission_fault or "they stand")  # fmt: skip
            self._tell_of_guard()
            self._members_changed(list(self._state.members.objects))

    def _leases_changed(self, keys: list[Key]) -> None:
        now = self._now()
        waking = [key for key in keys if self._observe_lease(key, now)]
        if waking:
            self._state.mark_live(waking)
            self._members_changed(waking)

    def _observe_lease(self, key: Key, now: float) -> bool:
        with self._malformed.isolate(f"Lease {'/'.join(key)}"):
            return self._state.observe_lease(key, now)
        return False

    def _groups_changed(self, keys: list[Key]) -> None:
        for namespace, name in keys:
            self._queue.add_nowait(Work("WorkloadGroup", (namespace, name)))
            self._members_changed(self._state.members_of(namespace, name))

    def _mesh_changed(self, _: list[Key]) -> None:
        if self._refresh_mesh():
            self._groups_changed(list(self._state.groups.objects))

    # What is told.

    def _refresh_mesh(self) -> bool:
        place, before = self._place, dict(self._state.faults)
        changed = self._state.refresh_mesh(self._now())
        sources = {
            CONFIG: (CONFIG_MAPS, place.linkerd, LINKERD_CONFIG),
            ANCHORS: (CONFIG_MAPS, place.linkerd, TRUST_ROOTS),
            ISSUER: (SECRETS, place.issuer_namespace or place.namespace, place.issuer_name),
        }
        for what, draft in source_events(before, self._state.faults):
            if what in sources:
                resource, namespace, name = sources[what]
                subject = Subject(resource.api_version, resource.kind, namespace, name)
                self._events.put_elsewhere_nowait(subject, draft)
        return changed

    def _tell_of_guard(self) -> None:
        concerned = self._state.faulty_policy
        assert concerned is not None
        subject = Subject(concerned["apiVersion"], concerned["kind"], "", concerned["metadata"]["name"])
        self._events.put_elsewhere_nowait(subject, admission_event(self._state.admission_fault))

    def _tell_of_member(self, key: Key, member: Object) -> None:
        before, after = self._seen.get(key), view_member(member)
        self._seen[key] = after
        self._events.put_nowait(subject_of(MEMBERS, member), member_events(before, after))

    def _tell_of_group(self, key: Key, group: Object, condition: Condition) -> None:
        conditions = read_conditions((group.get("status") or {}).get("conditions"))
        stood = next((one for one in conditions if one.type == condition.type), None)
        told = group_events(self._groups_told.get(key, stood), condition)
        self._groups_told[key] = condition
        self._events.put_nowait(subject_of(WORKLOAD_GROUPS, group), told)

    # Looks.

    async def _look(self, work: Work) -> float | None:
        key = work.key
        if work.kind == "WorkloadGroup":
            return await self._look_at_group(key)
        snapshot = self._state.snapshot(key, self._now())
        if snapshot is None:
            self._seen.pop(key, None)
            return None
        self._tell_of_member(key, snapshot.member)
        for _ in range(MOST_TRANSITIONS):
            transition = next_transition(snapshot)
            self._queue_members(
                self._state.reserve_address(key, transition.request if isinstance(transition, PutWorkload) else None)
            )
            if transition is None:
                return None
            if isinstance(transition, RecheckAfter):
                return transition.seconds
            log.debug("%s: %s", work, transition.label)
            changed, concerned = self._state.apply_result(
                key, snapshot, await self._executor.execute(transition, snapshot)
            )
            self.counts[transition.label] += 1
            self._queue_members(concerned)
            if changed is None:
                return None
            self._tell_of_member(key, changed.member)
            snapshot = changed.replaced(now=self._now())
        raise ValueError("more steps than there are things to do")

    async def _look_at_group(self, key: Key) -> float | None:
        """Accept it or say why not, hold it while it has members, publish its settings.

        Returns the seconds after which to do so again, None if no time is set for that.
        """
        found = self._state.groups.objects.get(key)
        if self._group_uids.get(key) != uid_of(found):
            # Deleted, and perhaps made again under this name: what is remembered was another group's.
            self._state.refusals.pop(key, None)
            self._state.published.pop(key, None)
            self._groups_told.pop(key, None)
            self._group_uids[key] = uid_of(found)
        if found is None:
            self._group_uids.pop(key, None)
            return None
        members = len(self._state.members_of(*key))
        others = [one for where, one in self._state.groups.objects.items() if where[0] == key[0]]
        refused = is_refused_namespace(key[0], self._place.namespace, self._place.linkerd)
        condition = accepted_condition(found, others, members=members, refused_namespace=refused)
        refusal = None if condition.status else f"{condition.reason}: {condition.message}"
        if self._state.refusals.get(key) != refusal:
            self._state.refusals[key] = refusal or ""
            self._members_changed(self._state.members_of(*key))
        if not refusal:
            self._state.refusals.pop(key, None)
        group, pause = self._state.group(key), None
        if group is not None and not found["metadata"].get("deletionTimestamp"):
            pause = await self._publish(key, group)
        work = group_patches(found, condition, members=members, now=self._now())
        if work.releases:
            await clear(self._cluster, *key)
        await self._write_group(key, work)
        self._tell_of_group(key, found, condition)
        return pause

    async def _write_group(self, key: Key, work: GroupPatches) -> None:
        for body, subresource in ((work.metadata, None), (work.status, "status")):
            if body is None:
                continue
            try:
                await self._cluster.send(patch(WORKLOAD_GROUPS, *key, body, subresource))
            except ApiRefusal as refusal:
                if refusal.status != 404:
                    raise
                return

    async def _publish(self, key: Key, group: Group) -> float | None:
        """Write a group's settings if they changed, then let its members know, a few at a time.

        Returns the seconds after which to write them again, None if they stay.
        """
        mesh = self._state.mesh
        if mesh is None or not is_worth_publishing(mesh.control_plane):
            return None
        text, digest = settings_of(group, mesh, self._state.heartbeat)
        published = Published(digest, frozenset(port.port for port in group.spec.ports))
        if self._state.published.get(key) == published:
            return None
        body = settings_object(group, text)
        try:
            stored = await self._cluster.send(
                patch(CONFIG_MAPS, group.namespace, settings_name(group.name), {"data": body["data"]})
            )
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            stored = await self._cluster.send(create(CONFIG_MAPS, group.namespace, body))
        owners = stored["metadata"].get("ownerReferences") or ()
        if owners and not any(one.get("uid") == group.uid for one in owners):
            # It belongs to a group of this name that was deleted, so the API server is about to delete it.
            log.info("settings of %s/%s: ConfigMap %s has an earlier owner", *key, settings_name(group.name))
            return OWNED_BY_ANOTHER
        self._state.published[key] = published
        log.info("settings of %s/%s: %s", *key, digest[:12])
        for place, member in enumerate(self._state.members_of(*key)):
            self._queue.add_later_nowait(Work("Member", member), place / TOLD_A_SECOND)
        return None

    async def _tick(self) -> None:
        """Time alone changes who is live, and whether an issuer's certificate is valid; the fleet's size, how often."""
        while True:
            await trio.sleep(TICK)
            self._mesh_changed([])
            if self._state.refresh_heartbeat():
                log.info("heartbeats: every %.0f s", self._state.heartbeat)
                self._groups_changed(list(self._state.groups.objects))
            now = self._now()
            leases, unread = await recheck_leases(self._cluster, self._state.overdue(now))
            for lease in leases:
                self._leases_changed(self._state.leases.apply(Upserted(lease)))
            self._members_changed(list(self._state.refresh_live(now, unread)))


@asynccontextmanager
async def open_controller(
    cluster: Cluster | FencedCluster, place: Place, now: Now, draw: Callable[[], float] = random.random
) -> AsyncIterator[Controller]:
    """Control while open; yields when every watch has told what there is."""
    controller = Controller(cluster, place, now, draw)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(controller.run)
        await controller.ready.wait()
        yield controller
        nursery.cancel_scope.cancel()
