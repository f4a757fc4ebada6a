"""The controller's loop: watches feed a queue, and workers reconcile the Members and groups in it."""

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import trio

from exclave.api.definitions.manifests import admission_objects
from exclave.api.malformed import MALFORMED, fault_text, object_title, read_each
from exclave.api.member import Condition
from exclave.api.names import GROUP_LABEL, MARK_SECRET, group_of_member, settings_name
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
    delete,
    get,
    patch,
)
from exclave.api.workload.opaque_ports import OpaqueMismatch, opaque_mismatches
from exclave.cluster.client import Cluster
from exclave.cluster.watch import Upserted
from exclave.controller.account_rights import follow_rights, read_rights
from exclave.controller.cache import Cache, uid_of
from exclave.controller.cluster_state import CONFIG, ClusterState
from exclave.controller.execute import Executor
from exclave.controller.leader.lead import FencedCluster, Sender
from exclave.controller.mesh.proxy_image import follow_images, read_images
from exclave.controller.mesh.publish import Published, is_worth_publishing, settings_object, settings_of
from exclave.controller.mesh.settings_watch import SettingsWatch, settings_patch
from exclave.controller.mesh.trust import ANCHORS, ISSUER
from exclave.controller.policy.accept import RIGHTS_MISSING, GroupPatches, GroupRights, group_patches
from exclave.controller.policy.liveness import NEVER, lease_fields
from exclave.controller.policy.mark import KEY_BYTES, MarkKey, key_object, read_key
from exclave.controller.policy.mesh_current import mesh_condition
from exclave.controller.policy.opaque import opaque_condition
from exclave.controller.policy.snapshot import Group, Key
from exclave.controller.policy.transitions import PutWorkload, RecheckAfter, next_transition
from exclave.controller.queue import WorkQueue
from exclave.controller.sweep import delete_group_accounts, run_sweeps
from exclave.controller.telemetry.event_writer import EventWriter, Notifier
from exclave.controller.telemetry.events import Subject
from exclave.controller.telemetry.headless import HeadlessWarner
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.formats.x509 import pem_of, read_certificate_file
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

ISSUER_NAME = "exclave-issuer"
LINKERD_CONFIG, TRUST_ROOTS = "linkerd-config", "linkerd-identity-trust-roots"

WORKERS = 8  # objects that are reconciled at once. Each needs a few requests, so the API server is the limit.
MOST_TRANSITIONS = 30  # transitions in one reconciliation. More would mean that two rules contradict each other.
MARK_KEY_READS = Backoff(first=1.0, most=60.0)
TICK = 5.0  # seconds between two checks of what time alone changes
NOTIFIED_PER_SECOND = 50.0  # Members a second that learn of new settings: a fleet must not fetch them all at once
MOST_RECHECKED = 200  # Leases that are read again in one round

# Seconds until settings are written again if their ConfigMap belongs to a deleted group of the same name.
OWNED_BY_ANOTHER = 2.0

MISSING_RIGHTS = Backoff(first=0.3, most=60.0)
UNREPORTED = 3  # times in a row that a right may be missing: a new Role takes effect after a moment


@dataclass(frozen=True)
class WorkItem:
    """An object to reconcile."""

    kind: Literal["Member", "WorkloadGroup"]
    key: Key

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(self.key)}"

    def lane(self) -> tuple[str, str]:
        """Namespace and group: one join token makes up to 999 Members of one group."""
        namespace, name = self.key
        return namespace, group_of_member(name) if self.kind == "Member" else name


@dataclass(frozen=True)
class Locations:
    """The controller's own namespace, Linkerd's, and the issuer's Secret, by default in the controller's namespace."""

    namespace: str = "exclave"
    linkerd: str = "linkerd"
    issuer_namespace: str | None = None
    issuer_name: str = ISSUER_NAME
    ca_file: Path | None = None  # with the API server's CAs, which the kubelet renews


@dataclass(frozen=True)
class Watch:
    """A watch of one kind, or of one object: `changed` is called with the keys that an event is about."""

    cache: Cache
    resource: Resource
    changed: Callable[[list[Key]], None]
    namespace: str | None = None
    name: str | None = None
    labels: str = ""
    trim: Callable[[Object], Object] | None = None


class Controller:
    """The controller of the leading replica; running members need none. `counts`: executed transitions by label."""

    def __init__(
        self, cluster: Cluster | FencedCluster, locations: Locations, now: Now, draw: Callable[[], float]
    ) -> None:
        self.ready = trio.Event()
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._locations = locations
        self._now = now
        self._draw = draw
        self._malformed = MalformedLog(now)
        self.state = ClusterState(locations.namespace, locations.linkerd, self._malformed)
        self._executor = Executor(cluster, lambda: self.state.issuer, now)
        self._queue: WorkQueue[WorkItem] = WorkQueue(self._reconcile, draw, WorkItem.lane)
        self._admission = admission_objects(locations.namespace)
        self._events = EventWriter(cluster, locations.namespace, now)
        self._sources = {
            CONFIG: (CONFIG_MAPS, locations.linkerd, LINKERD_CONFIG),
            ANCHORS: (CONFIG_MAPS, locations.linkerd, TRUST_ROOTS),
            ISSUER: (SECRETS, locations.issuer_namespace or locations.namespace, locations.issuer_name),
        }
        subjects = {
            source: Subject(resource.api_version, resource.kind, namespace, name)
            for source, (resource, namespace, name) in self._sources.items()
        }
        self._notifier = Notifier(self._events, subjects)
        self._settings = SettingsWatch(cluster, self._settings_changed, draw)
        self._group_uids: dict[Key, str] = {}  # of the groups that were reconciled
        self._missing_rights: Counter[Key] = Counter()  # how often in a row a right was missing for a group
        self._group_accepted: dict[Key, Condition] = {}  # their conditions, as their members were reconciled with

    async def run(self) -> None:
        """Watch and reconcile until cancelled."""
        state, watches = self.state, self._watches()
        await self._refresh_server_ca()  # before the first settings: members would get new ones twice
        async with open_bare_nursery() as nursery:
            for watch in watches:
                follow = partial(self._follow, watch, watches)
                nursery.start_soon(supervise, f"watch of {watch.resource.plural}", follow)
            nursery.start_soon(self._watch_outages)
            await self.ready.wait()  # until every watch has listed its objects
            await self._read_mark_key()  # before the first decision; a failure is tried again below
            state.liveness.watching_since = self._now()
            # Before the first decision: settings that change twice at each start would be loaded twice by each machine.
            state.proxy_images.update(await read_images(self._cluster, self._locations.linkerd))
            self._start_all()
            log.info("controller: %d groups, %d members", len(state.groups.objects), len(state.members.objects))
            nursery.start_soon(self._settings.run)
            nursery.start_soon(self._queue.run, WORKERS)
            nursery.start_soon(supervise, "clock", self._tick)
            if state.mark_key is None:
                nursery.start_soon(supervise, "key of marks", self._await_mark_key)
            sweeps = partial(run_sweeps, self._cluster, state.namespaces, state.members, self._now, self._malformed)
            nursery.start_soon(supervise, "accounts", sweeps)
            rights = partial(
                follow_rights, self._cluster, state.namespaces, self._locations.namespace, self._rights_changed
            )
            nursery.start_soon(supervise, "rights of others", rights)
            warner = HeadlessWarner(
                self._cluster, state.readable_groups, self._events, self._malformed, self._observe_services
            )
            nursery.start_soon(supervise, "headless Services", warner.run)
            images = partial(follow_images, self._cluster, self._locations.linkerd, self._images_found)
            nursery.start_soon(supervise, "images of the proxy", images)
            nursery.start_soon(supervise, "events", self._events.run)

    async def _await_mark_key(self) -> None:
        attempts = Attempts()
        while self.state.mark_key is None:
            await trio.sleep(attempts.failed(MARK_KEY_READS, self._draw()))
            await self._read_mark_key()
        self._members_changed(list(self.state.members.objects))

    async def _read_mark_key(self) -> None:
        """Read the key of marks, and make one if there is none. A fault is stored, and Members wait."""
        try:
            self.state.mark_key = await read_or_make_key(self._cluster, self._locations.namespace)
            self.state.mark_fault = None
        except (ClusterError, *MALFORMED) as problem:
            self.state.mark_fault = f"the controller can recognise no member: {fault_text(problem)}"
            log.error("%s", self.state.mark_fault)

    def _watches(self) -> list[Watch]:
        state, linkerd = self.state, self._locations.linkerd
        watches = [
            Watch(state.groups, WORKLOAD_GROUPS, self._groups_changed),
            Watch(state.members, MEMBERS, self._members_added_or_removed),
            Watch(state.workloads, EXTERNAL_WORKLOADS, self._members_changed),
            # Not those of nodes. A tenant's with this label are watched, too.
            Watch(state.leases, LEASES, self._leases_changed, labels=GROUP_LABEL, trim=lease_fields),
            Watch(state.linkerd_slices, ENDPOINT_SLICES, self._mesh_changed, linkerd),
            Watch(state.dns_slices, ENDPOINT_SLICES, self._mesh_changed, "kube-system"),
        ]
        for source, cache in ((CONFIG, state.config), (ANCHORS, state.anchors), (ISSUER, state.secret)):
            resource, namespace, name = self._sources[source]
            watches.append(Watch(cache, resource, self._mesh_changed, namespace, name))
        for one in self._admission:
            kind, name = one["kind"], one["metadata"]["name"]
            is_policy = kind == VALIDATING_ADMISSION_POLICIES.kind
            resource = VALIDATING_ADMISSION_POLICIES if is_policy else VALIDATING_ADMISSION_POLICY_BINDINGS
            cache = state.admission[f"{kind} {name}"] = Cache()
            watches.append(Watch(cache, resource, self._admission_changed, None, name))
        return watches

    async def _follow(self, watch: Watch, watches: list[Watch]) -> None:
        place, liveness = (watch.resource, watch.namespace, watch.name, watch.labels), self.state.liveness
        are_leases = watch.cache is self.state.leases
        try:
            async with self._cluster.watch(*place, trim=watch.trim) as events:
                async for event in events:
                    if are_leases and liveness.watching_since == NEVER:
                        liveness.watching_since = self._now()
                    watch.changed(watch.cache.apply(event))
                    if not self.ready.is_set() and all(one.cache.synced for one in watches):
                        self.ready.set()
        finally:
            if are_leases:
                # A server that has just started may refuse everybody, machines too, so none is silent until it answers.
                liveness.watching_since = NEVER

    async def _watch_outages(self) -> None:
        """While the API server is not reached, no Lease counts as silent: count again from its return."""
        reachable = self._cluster.reachable
        while True:
            await reachable.wait_for(lambda value: not value)
            await reachable.wait_for(lambda value: value)
            if self.state.liveness.watching_since != NEVER:
                self.state.liveness.watching_since = self._now()

    def _start_all(self) -> None:
        self._refresh_mesh()
        self.state.refresh_admission(self._admission)
        if self.state.admission_fault is not None:
            self._report_admission()
        self.state.refresh_heartbeat()
        for key in self.state.leases.objects:
            self._observe_lease(key, self._now())
        self.state.liveness.refresh(self._now())
        self.state.refresh_members(self.state.members.objects)
        self._groups_changed(list(self.state.groups.objects))

    # Changes, and the objects to reconcile because of them.

    def _members_changed(self, keys: list[Key]) -> None:
        self._queue_members((*keys, *sorted(self.state.refresh_members(keys))))

    def _queue_members(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add_nowait(WorkItem("Member", key))

    def _members_added_or_removed(self, keys: list[Key]) -> None:
        self._members_changed(keys)
        for namespace, name in keys:
            group = (namespace, group_of_member(name))
            found = self.state.groups.objects.get(group)
            if found is not None and found["metadata"].get("deletionTimestamp"):
                self._queue.add_nowait(WorkItem("WorkloadGroup", group))  # it may have waited for its last member

    def _admission_changed(self, _: list[Key]) -> None:
        if self.state.refresh_admission(self._admission) and self.ready.is_set():
            fault = self.state.admission_fault
            log.log(logging.ERROR if fault else logging.INFO, "admission policies: %s", fault or "as installed")
            self._report_admission()
            self._members_changed(list(self.state.members.objects))

    def _report_admission(self) -> None:
        assert self.state.faulty_policy is not None
        self._notifier.report_admission(self.state.faulty_policy, self.state.admission_fault)

    def _leases_changed(self, keys: list[Key]) -> None:
        now = self._now()
        waking = [key for key in keys if self._observe_lease(key, now)]
        if waking:
            self.state.liveness.mark_live(waking)
            self._members_changed(waking)

    def _observe_lease(self, key: Key, now: float) -> bool:
        with self._malformed.isolate(f"Lease {'/'.join(key)}"):
            return self.state.liveness.observe(key, now)
        return False

    def _groups_changed(self, keys: list[Key]) -> None:
        beside = self.state.groups_changed({namespace for namespace, _ in keys})
        for key in dict.fromkeys((*keys, *beside)):
            self._queue.add_nowait(WorkItem("WorkloadGroup", key))
        for key in keys:
            self._members_changed(self.state.members_of(*key))

    def _settings_changed(self, group: Key) -> None:
        self._queue.add_nowait(WorkItem("WorkloadGroup", group))

    def _rights_changed(self, namespace: str, rights: GroupRights) -> None:
        if self.state.store_rights(namespace, rights):
            self._groups_changed([key for key in self.state.groups.objects if key[0] == namespace])

    def _images_found(self, images: Mapping[str, str]) -> None:
        self.state.proxy_images.update(images)  # one that no pod runs at the moment keeps its digest
        self._mesh_changed([])

    def _mesh_changed(self, _: list[Key]) -> None:
        if self._refresh_mesh():
            self._groups_changed(list(self.state.groups.objects))

    def _refresh_mesh(self) -> bool:
        changed = self.state.refresh_mesh(self._now())
        self._notifier.report_sources(self.state.faults)
        return changed

    async def _tick(self) -> None:
        """Refresh what changes without an event: who is live, the issuer's validity, the heartbeat interval, the CA."""
        while True:
            await trio.sleep(TICK)
            await self._refresh_server_ca()
            self._mesh_changed([])
            if self.state.refresh_heartbeat():
                log.info("heartbeats: every %.0f s", self.state.heartbeat)
                self._groups_changed(list(self.state.groups.objects))
            now = self._now()
            leases, unread = await recheck_leases(self._cluster, self.state.liveness.overdue(now))
            for lease in leases:
                self._leases_changed(self.state.leases.apply(Upserted(lease_fields(lease))))
            self._members_changed(list(self.state.liveness.refresh(now, unread)))

    async def _refresh_server_ca(self) -> None:
        """Read the API server's CAs again; what cannot be read changes nothing."""
        if self._locations.ca_file is None:
            return
        try:
            ca = await read_ca_file(self._locations.ca_file)
        except (OSError, ValueError) as problem:
            log.warning("the API server's CA is not read again: %s: %s", self._locations.ca_file, problem)
            return
        if ca != self.state.server_ca:
            log.info("the API server's CA: %d certificates", ca.count("BEGIN CERTIFICATE"))
            self.state.server_ca = ca

    # Reconciling. Each function returns the seconds after which to reconcile again; None: at the next change.

    async def _reconcile(self, item: WorkItem) -> float | None:
        if item.kind == "WorkloadGroup":
            return await self._reconcile_group(item.key)
        return await self._reconcile_member(item.key)

    async def _reconcile_member(self, key: Key) -> float | None:
        snapshot = self.state.snapshot(key, self._now())
        if snapshot is None:
            self._notifier.forget_member(key)
            return None
        self._notifier.report_member(key, snapshot.member)
        for _ in range(MOST_TRANSITIONS):
            transition = next_transition(snapshot)
            request = transition.request if isinstance(transition, PutWorkload) else None
            self._queue_members(self.state.reserve_address(key, request))
            if transition is None:
                return None
            if isinstance(transition, RecheckAfter):
                return transition.seconds
            log.debug("Member %s/%s: %s", *key, transition.label)
            result = await self._executor.execute(transition, snapshot)
            changed, concerned = self.state.apply_result(key, snapshot, result)
            self.counts[transition.label] += 1
            self._queue_members(concerned)
            if changed is None:
                return None
            self._notifier.report_member(key, changed.member)
            snapshot = changed.replaced(now=self._now())
        raise ValueError(f"not settled after {MOST_TRANSITIONS} transitions: two rules contradict each other")

    async def _reconcile_group(self, key: Key) -> float | None:
        """Accept the group or state why not, hold it while it has members, publish its settings."""
        state = self.state
        found = state.groups.objects.get(key)
        if self._group_uids.get(key) != uid_of(found):
            # The group was deleted, and perhaps created again under this name: forget the former one.
            state.published.pop(key, None)
            state.set_settings_fault(key, None)
            self._settings.forget_nowait(key)
            state.opaque_mismatches.pop(key, None)
            self._notifier.forget_group(key)
            self._group_uids[key] = uid_of(found)
        if found is None:
            self._group_uids.pop(key, None)
            self._group_accepted.pop(key, None)
            self._missing_rights.pop(key, None)
            state.forget_group(key)
            return None
        group, pause = state.group(key), None
        if key[0] in state.namespaces():  # in others the controller has no rights
            if not state.has_read_rights(key[0]):
                self._rights_changed(key[0], await read_rights(self._cluster, key[0], self._locations.namespace))
            if group is not None and not found["metadata"].get("deletionTimestamp"):
                pause = await self._publish(key, group)
        if (found := state.groups.objects.get(key)) is None:
            return None
        members, condition = state.members_of(*key), state.accepted(key)
        if self._group_accepted.get(key) != condition:
            self._group_accepted[key] = condition
            self._members_changed(members)
        if condition.reason == RIGHTS_MISSING:
            pause = MISSING_RIGHTS.pause(self._missing_rights[key], self._draw())
            self._missing_rights[key] += 1
            if self._missing_rights[key] < UNREPORTED:
                return pause
        else:
            self._missing_rights.pop(key, None)
        conditions = [condition]
        if key in state.opaque_mismatches:
            conditions.append(opaque_condition(state.opaque_mismatches[key]))
        if (current := mesh_condition(found, state.mesh_faults, state.mesh is not None)) is not None:
            conditions.append(current)
        patches = group_patches(found, conditions, members=len(members), now=self._now())
        if patches.releases:
            await delete_group_accounts(self._cluster, *key)
        await self._patch_group(key, patches)
        self._notifier.report_group(key, found, condition)
        return pause

    def _observe_services(self, group: Group, services: list[Object]) -> None:
        """Store how the Services that select a group differ from it; the group's next reconciliation writes that."""
        state, key = self.state, (group.namespace, group.name)
        if state.mesh is None:
            return

        def mismatches(service: Object) -> list[OpaqueMismatch]:
            return list(opaque_mismatches(service, group.name, group.spec.ports, linkerd))

        linkerd = state.mesh.linkerd.opaque_ports
        read = read_each(services, mismatches, lambda one, why: self._malformed.report(object_title(one), why))
        found = tuple(chain.from_iterable(read))
        if state.opaque_mismatches.get(key) != found:
            state.opaque_mismatches[key] = found
            self._queue.add_nowait(WorkItem("WorkloadGroup", key))

    async def _patch_group(self, key: Key, patches: GroupPatches) -> None:
        for body, subresource in ((patches.metadata, None), (patches.status, "status")):
            if body is None:
                continue
            try:
                await self._cluster.send(patch(WORKLOAD_GROUPS, *key, body, subresource))
            except ApiRefusal as refusal:
                if refusal.status == 422 and subresource is not None:
                    # Kubernetes 1.30 does so if the group is older than a rule of its definition, and breaks that.
                    log.warning("WorkloadGroup %s/%s: its conditions cannot be written: %s", *key, refusal.message)
                elif refusal.status != 404:
                    raise
                return

    async def _publish(self, key: Key, group: Group) -> float | None:
        """Write a group's settings if they or their ConfigMap changed, then queue its members, a few at a time."""
        state = self.state
        if state.mesh is None or not is_worth_publishing(state.mesh.control_plane):
            return None
        text, digest = settings_of(group, state.mesh, state.heartbeat)
        published = Published(digest, frozenset(port.port for port in group.spec.ports))
        is_repair = state.published.get(key) == published
        if is_repair:
            if self._settings.is_intact(key, text):
                return None
            if (pause := self._settings.time_to_repair(key)) > 0:
                return pause
            if not await self._exists(group):  # its ConfigMap is deleted with it, and this watch may be the faster one
                return None
            self._notifier.report_settings_repair(key, state.groups.objects[key])
        try:
            stored = await self._write_settings(group, text, self._settings.found(key))
        except ApiRefusal as refusal:
            if refusal.status != 403:
                raise
            state.set_settings_fault(key, refusal.message)
            return None
        state.set_settings_fault(key, None)
        self._settings.follow_nowait(key, stored)
        owners = stored["metadata"].get("ownerReferences") or ()
        if owners and not any(one.get("uid") == group.uid for one in owners):
            # The ConfigMap belongs to a deleted group of this name, so the API server will delete it.
            log.info("settings of %s/%s: their ConfigMap has an earlier owner", *key)
            return OWNED_BY_ANOTHER
        if is_repair:  # the digest is in every Member already
            return None
        state.published[key] = published
        log.info("settings of %s/%s: %s", *key, digest[:12])
        for number, member in enumerate(state.members_of(*key)):
            self._queue.add_later_nowait(WorkItem("Member", member), number / NOTIFIED_PER_SECOND)
        return None

    async def _exists(self, group: Group) -> bool:
        """True if the group is there now, and is not being deleted."""
        try:
            found = await self._cluster.send(get(WORKLOAD_GROUPS, group.namespace, group.name))
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return False
            raise
        return uid_of(found) == group.uid and not found["metadata"].get("deletionTimestamp")

    async def _write_settings(self, group: Group, text: str, found: Object | None) -> Object:
        """Write a group's settings. `found`: their ConfigMap, as far as known. Returns it as it is then."""
        name = settings_name(group.name)
        try:
            return await self._cluster.send(patch(CONFIG_MAPS, group.namespace, name, settings_patch(found, text)))
        except ApiRefusal as refusal:
            if refusal.status == 422:  # somebody has set `immutable: true`, which only a deletion ends
                await self._cluster.send(delete(CONFIG_MAPS, group.namespace, name))
            elif refusal.status != 404:
                raise
        return await self._cluster.send(create(CONFIG_MAPS, group.namespace, settings_object(group, text)))


async def read_or_make_key(cluster: Sender, namespace: str) -> MarkKey:
    """Read the key of marks, or create one. Raises ClusterError, ValueError."""
    asked = get(SECRETS, namespace, MARK_SECRET)
    try:
        return read_key(await cluster.send(asked))
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
    try:
        return read_key(await cluster.send(create(SECRETS, namespace, key_object(namespace, os.urandom(KEY_BYTES)))))
    except ApiRefusal as refusal:
        if refusal.status != 409:
            raise
    return read_key(await cluster.send(asked))  # another replica was faster


async def read_ca_file(path: Path) -> str:
    """The certificates of a file with CAs, as PEM. Raises OSError, ValueError."""
    return "".join(map(pem_of, read_certificate_file(await trio.Path(path).read_bytes())))


async def recheck_leases(cluster: Sender, silent: Iterable[Key]) -> tuple[list[Object], set[Key]]:
    """Read silent members' Leases again, since a watch can stall for minutes. Returns Leases, and members not read."""
    unread, found = set(silent), list[Object]()
    for key in sorted(unread)[:MOST_RECHECKED]:
        try:
            found.append(await cluster.send(get(LEASES, *key)))
        except ClusterError as problem:
            if not isinstance(problem, ApiRefusal) or problem.status != 404:
                break  # a server in trouble gets no more requests; the next round reads the rest
        unread.discard(key)
    return found, unread


@asynccontextmanager
async def open_controller(
    cluster: Cluster | FencedCluster, locations: Locations, now: Now, draw: Callable[[], float] = random.random
) -> AsyncIterator[Controller]:
    """Run a Controller while open; yields when every watch has listed its objects."""
    controller = Controller(cluster, locations, now, draw)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(controller.run)
        await controller.ready.wait()
        yield controller
        nursery.cancel_scope.cancel()
