"""What the controller has seen of the cluster: objects by namespace and name, and what follows from them together.

Rules: watches write, looks read; nothing here asks the cluster. A source that cannot be read is told once, and its
last good reading stays. Deciding is left to the pure modules.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from exclave.api.definitions.admission_drift import first_fault
from exclave.api.issuer import Issuer
from exclave.api.malformed import MALFORMED, fault_text, object_title, read_each
from exclave.api.member import LIVE, read_conditions, view_member
from exclave.api.names import group_of_member, parse_member_name
from exclave.api.requests import Object, Request
from exclave.api.settings import parse_group
from exclave.cluster.watch_events import Listed, Removed, WatchEvent
from exclave.controller.mesh.publish import Published, last_good, read_control_plane, read_linkerd
from exclave.controller.mesh.trust import ANCHORS, ISSUER, Trust, choose_trust
from exclave.controller.policy.claims import Claims, neighbour_of
from exclave.controller.policy.heartbeats import SHORTEST, Holders, holder_of, interval_for
from exclave.controller.policy.reap import LeaseObservation, live_members, see
from exclave.controller.policy.snapshot import Group, MemberSnapshot, Mesh, workload_ports
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import describe

log = logging.getLogger(__name__)

T = TypeVar("T")

CONFIG = "config"

Key = tuple[str, str]
"""Namespace and name."""


def key_of(found: Object) -> Key:
    """Where an object stands."""
    return str(found["metadata"].get("namespace", "")), str(found["metadata"]["name"])


def uid_of(found: Object | None) -> str:
    """Which of all the objects that ever had its name an object is; "" for none."""
    return str(found["metadata"].get("uid") or "") if found is not None else ""


def _leave_out(found: Object, problem: Exception) -> None:
    log.error("%s cannot be used, and is left out: %s", object_title(found), describe(problem))


REMEMBERED = 1000
"""Removals that a cache remembers: an answer that is older comes within seconds."""


class Cache:
    """One kind's objects, as a watch tells of them, and as answers to our own requests do before it."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.synced = False
        self._removed: dict[Key, int] = {}  # versions, the last removal last

    def apply(self, event: WatchEvent) -> list[Key]:
        """Take an event; the keys that it concerns."""
        self.synced = True
        if isinstance(event, Listed):
            found = dict(read_each(event.objects, lambda one: (key_of(one), one), _leave_out))
            concerned = [*found, *(key for key in self.objects if key not in found)]
            self.objects = found
            return concerned
        if not event.object:
            key = next(iter(self.objects), ("", ""))
            self.objects.pop(key, None)
            return [key]
        keys = read_each((event.object,), key_of, _leave_out)
        for key in keys:
            if isinstance(event, Removed):
                self.objects.pop(key, None)
                self._removed[key] = _version(event.object)
                while len(self._removed) > REMEMBERED:
                    del self._removed[next(iter(self._removed))]
            else:
                self.objects[key] = event.object
        return keys

    def merge_response(self, key: Key, found: Object) -> Object | None:
        """Take what a request has answered; what is known then, since a watch may have told of something newer."""
        known, version = self.objects.get(key), _version(found)
        if known is not None and _version(known) > version:
            return known
        if known is None and self._removed.get(key, -1) >= version:
            return None
        self.objects[key] = found
        return found

    def single(self) -> Object | None:
        """The object of a watch that follows one."""
        return next(iter(self.objects.values()), None)


def _version(found: Object) -> int:
    """Which of two states of an object is the newer; Kubernetes' versions are numbers, and grow."""
    text = str(found["metadata"].get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdecimal() else 0


@dataclass
class ClusterState:
    """Everything that is watched, by what it is."""

    namespace: str
    linkerd_namespace: str
    malformed: MalformedLog = field(default_factory=lambda: MalformedLog(lambda: 0.0))
    groups: Cache = field(default_factory=Cache)
    members: Cache = field(default_factory=Cache)
    workloads: Cache = field(default_factory=Cache)
    leases: Cache = field(default_factory=Cache)
    config: Cache = field(default_factory=Cache)
    anchors: Cache = field(default_factory=Cache)
    secret: Cache = field(default_factory=Cache)
    linkerd_slices: Cache = field(default_factory=Cache)
    dns_slices: Cache = field(default_factory=Cache)
    guard: dict[str, Cache] = field(default_factory=dict)
    admission_fault: str | None = None
    faulty_policy: Object | None = None
    heartbeat: float = SHORTEST
    mesh: Mesh | None = None
    trust: Trust | None = None
    faults: dict[str, str] = field(default_factory=dict)
    watching_since: float = 0.0
    _readings: dict[Key, Group] = field(default_factory=dict)
    _read: dict[Key, Object] = field(default_factory=dict)
    _observations: dict[Key, LeaseObservation] = field(default_factory=dict)
    _live: set[Key] = field(default_factory=set)
    _holders: dict[Key, Holders] = field(default_factory=dict)
    _claims: Claims = field(default_factory=Claims)
    _reserved: dict[Key, Object] = field(default_factory=dict)
    _patience: float = SHORTEST
    refusals: dict[Key, str] = field(default_factory=dict)
    _emptied: dict[Key, tuple[str, float]] = field(default_factory=dict)  # uid of the ExternalWorkload, and since when
    # A name may come back, so these hold the uid of the Member too.
    _has_account: dict[Key, str] = field(default_factory=dict)
    _account_deleted: dict[Key, str] = field(default_factory=dict)
    published: dict[Key, Published] = field(default_factory=dict)

    @property
    def issuer(self) -> Issuer | None:
        """What signs, None if there is nothing that may."""
        return self.trust.issuer if self.trust is not None else None

    @property
    def mesh_fault(self) -> str | None:
        """Why there is no mesh, for whoever waits for it; None if there is one."""
        if self.mesh is not None:
            return None
        sources = (
            (CONFIG, self.config, "Linkerd's ConfigMap linkerd-config is missing"),
            (ANCHORS, self.anchors, "Linkerd's ConfigMap linkerd-identity-trust-roots is missing"),
            (ISSUER, self.secret, "the issuer's Secret is missing"),
        )
        told = [self.faults.get(what) or ("" if cache.objects else missing) for what, cache, missing in sources]
        return f"the controller can certify nobody yet: {'; '.join(one for one in told if one) or 'it is reading'}"

    def refresh_mesh(self, now: float) -> bool:
        """Read Linkerd's objects and the issuer again; True if what members must know has changed."""
        before, fault = self.mesh, self.mesh_fault
        config, linkerd = self.config.single(), before.linkerd if before else None
        if config is not None:
            linkerd = self._try(CONFIG, lambda: read_linkerd(config, self.linkerd_namespace)) or linkerd
        self.trust, faults = choose_trust(self.secret.single(), self.anchors.single(), self.trust, now)
        for what in (ANCHORS, ISSUER):
            self._set_fault(what, faults.get(what))
        if linkerd is not None and self.trust is not None:
            issuer = self.trust.issuer
            found = read_control_plane(
                self.linkerd_slices.objects.values(),
                self.dns_slices.objects.values(),
                lambda one, problem: self.malformed.report(f"EndpointSlice {'/'.join(key_of(one))}", problem),
            )
            control_plane = last_good(found, before.control_plane if before else None)
            self.mesh = Mesh(linkerd, self.trust.anchors, issuer.sha256, control_plane, issuer.not_after)
        return (self.mesh, self.mesh_fault) != (before, fault)

    def refresh_admission(self, wanted: Iterable[Object]) -> bool:
        """Look at the admission policies again; True if what is wrong with them has changed."""
        before, wanted = self.admission_fault, list(wanted)
        found = [one for cache in self.guard.values() if (one := cache.single()) is not None]
        fault = first_fault(found, wanted)
        self.admission_fault = fault[1] if fault is not None else None
        self.faulty_policy = fault[0] if fault is not None else wanted[0]
        return self.admission_fault != before

    def refresh_heartbeat(self) -> bool:
        """Choose the interval for a fleet of this size; True if it has changed.

        Whoever has not loaded a shorter one yet is given the longer one's time.
        """
        before = self.heartbeat
        self.heartbeat = interval_for(len(self.members.objects), before)
        if self.heartbeat > before or (self._patience > self.heartbeat and self._all_have_loaded()):
            self._patience = self.heartbeat
        return self.heartbeat != before

    def _all_have_loaded(self) -> bool:
        digests = {settings.digest for settings in self.published.values()}
        live = (self.members.objects[key] for key in self._live if key in self.members.objects)
        return all(view_member(one).loaded.get("settings") in digests for one in live)

    def group(self, key: Key) -> Group | None:
        """A WorkloadGroup, or its last good reading; None if there is none."""
        found = self.groups.objects.get(key)
        if found is None:
            self._readings.pop(key, None)
            self._read.pop(key, None)
            self.faults.pop(f"WorkloadGroup {key[0]}/{key[1]}", None)
            return None
        if self._read.get(key) is found:  # each look at each member asks
            return self._readings.get(key)
        self._read[key] = found
        namespace, name = key
        if key in self._readings and self._readings[key].uid != uid_of(found):
            del self._readings[key]  # of a group that was deleted
        spec = self._try(f"WorkloadGroup {namespace}/{name}", lambda: parse_group(name, found.get("spec") or {}))
        if spec is not None:
            self._readings[key] = Group(namespace, name, uid_of(found), spec)
        return self._readings.get(key)

    def observe_lease(self, key: Key, now: float) -> bool:
        """Look at a Lease; True if its member is to be looked at: it was not live before, or two machines are heard."""
        lease = self.leases.objects.get(key)
        if lease is None:
            self._forget_lease(key)
            return True
        was_live = self._is_live(key)
        renewed = (lease.get("spec") or {}).get("renewTime")
        holders = self._holders.get(key, Holders())
        self._observations[key] = see(self._observations.get(key), renewed, now)
        seen = self._holders[key] = holders.see(holder_of(lease), now)
        return not was_live or seen.returned != holders.returned

    def _forget_lease(self, key: Key) -> None:
        self._observations.pop(key, None)
        self._holders.pop(key, None)

    def mark_live(self, keys: Iterable[Key]) -> None:
        """Take members whose heartbeats have just been seen for live, without a look at all the others."""
        for key in keys:
            observation = self._observations.get(key)
            if observation is not None and observation.renewed is not None and self._is_evidence(key, observation):
                self._live.add(key)

    def _is_evidence(self, key: Key, observation: LeaseObservation) -> bool:
        """Whether a sight says something of now: a Lease that has only been met does so if its member was live.

        Else every member that died long ago would live again, ports and all, whenever a controller starts. Leases of
        others, such as those of the cluster's nodes, say nothing of the fleet.
        """
        member = self.members.objects.get(key)
        if member is None or observation.changed:
            return member is not None
        status = member.get("status")  # not read whole: all are asked at each tick
        conditions = read_conditions(status.get("conditions")) if isinstance(status, dict) else ()
        return any(one.type == LIVE and one.status for one in conditions)

    def overdue(self, now: float) -> set[Key]:
        """Who would no longer be live, by what the watch of Leases has told."""
        return self._live - self._live_now(now)

    def refresh_live(self, now: float, unread: Collection[Key] = ()) -> set[Key]:
        """Who became live, or no longer is. Of `unread` no more than the watch's silence is known: they stay live."""
        before = set(self._live)
        self._live = self._live_now(now) | before.intersection(unread)
        return before ^ self._live

    def _live_now(self, now: float) -> set[Key]:
        observations = {
            key: observation for key, observation in self._observations.items() if self._is_evidence(key, observation)
        }
        return live_members(
            observations, self._live, interval=self._patience, watching_since=self.watching_since, now=now
        )

    def refresh_members(self, keys: Iterable[Key]) -> set[Key]:
        """Look at Members of which anything has changed; which others that concerns."""
        concerned: set[Key] = set()
        for key in list(keys):
            with self.malformed.isolate(f"Member {'/'.join(key)}"):
                concerned |= self._refresh_member(key)
        return concerned

    def _refresh_member(self, key: Key) -> set[Key]:
        member = self.members.objects.get(key)
        if member is None:
            self._forget_member(key)
            return self._claims.refresh(key, None)
        workload, reserved = self.workloads.objects.get(key), self._reserved.get(key)
        live = self._is_live(key)
        return self._claims.refresh(
            key, neighbour_of(member, workload, self._group_of(key), live=live, reserved=reserved)
        )

    def reserve_address(self, key: Key, request: Request | None) -> set[Key]:
        """Note what a Member's ExternalWorkload is being given, None if nothing; which others that concerns.

        Whoever is looked at while the request is under way must not be given the same address.
        """
        if request is None or request.body is None:
            self._reserved.pop(key, None)
        else:
            self._reserved[key] = request.body
        return self._refresh_member(key)

    def _forget_member(self, key: Key) -> None:
        for memory in (self._reserved, self._has_account, self._account_deleted, self._emptied):
            memory.pop(key, None)

    def _is_live(self, key: Key) -> bool:
        """Whether a Member is live. One whose Lease was never renewed is not: an earlier Member of its name was."""
        observation = self._observations.get(key)
        return key in self._live and observation is not None and observation.renewed is not None

    def _group_of(self, key: Key) -> Group | None:
        """The group that a Member's name names."""
        try:
            return self.group((key[0], parse_member_name(key[1]).group))
        except ValueError:
            return None

    def snapshot(self, key: Key, now: float) -> MemberSnapshot | None:
        """All that is known of a Member; None if there is none."""
        member = self.members.objects.get(key)
        if member is None:
            return None
        group = self._group_of(key)
        observation, uid = self._observations.get(key), uid_of(member)
        published = self.published.get((group.namespace, group.name)) if group else None
        return MemberSnapshot(
            member=member,
            now=now,
            group=group,
            mesh=self.mesh,
            settings_digest=published.digest if published else None,
            settings_ports=published.ports if published else frozenset(),
            admission_fault=self.admission_fault,
            mesh_fault=self.mesh_fault,
            group_refusal=self.refusals.get((group.namespace, group.name)) if group else None,
            neighbours=self._claims.sharing_with(key),
            workload=self.workloads.objects.get(key),
            has_account=self._has_account.get(key) == uid,
            has_lease=key in self.leases.objects,
            has_heartbeat=observation is not None and observation.renewed is not None,
            live=self._is_live(key),
            clones=self._holders.get(key, Holders()).clones(now),
            emptied_at=self._emptied_at(key, now),
            account_deleted=self._account_deleted.get(key) == uid,
        )

    def apply_result(
        self, key: Key, before: MemberSnapshot, after: MemberSnapshot | None
    ) -> tuple[MemberSnapshot | None, set[Key]]:
        """Keep what carrying out a step has changed until the watches tell the same.

        The world to go on with, None if the Member is gone, and which others that concerns. What the watches told
        meanwhile, while the answer was on its way, is not undone by it: nobody would tell of it again.
        """
        self._reserved.pop(key, None)
        uid = uid_of(before.member)
        if after is None:
            if uid_of(self.members.objects.get(key)) == uid:
                del self.members.objects[key]
            return None, self._refresh_member(key)
        member = self.members.merge_response(key, after.member)
        if after.workload is not None:
            self.workloads.merge_response(key, after.workload)
        elif before.workload is not None and uid_of(self.workloads.objects.get(key)) == uid_of(before.workload):
            self.workloads.objects.pop(key, None)
        workload = self.workloads.objects.get(key)
        if before.has_lease and not after.has_lease:
            self.leases.objects.pop(key, None)
            self._forget_lease(key)
        if member is None:
            return None, self._refresh_member(key)
        if uid_of(member) != uid:
            # Another Member of this name: what was found out about the first one does not hold for it.
            return None, {key, *self._refresh_member(key)}
        for is_so, memory in (
            (after.has_account, self._has_account),
            (after.account_deleted, self._account_deleted),
        ):
            if is_so:
                memory[key] = uid
            else:
                memory.pop(key, None)
        return after.replaced(member=member, workload=workload), self._refresh_member(key)

    def members_of(self, namespace: str, group: str) -> list[Key]:
        """The Members of a group."""
        return [key for key in self.members.objects if key[0] == namespace and group_of_member(key[1]) == group]

    def _emptied_at(self, key: Key, now: float) -> float | None:
        workload = self.workloads.objects.get(key)
        if workload is None or workload_ports(workload):
            self._emptied.pop(key, None)
            return None
        uid = uid_of(workload)
        if key not in self._emptied or self._emptied[key][0] != uid:
            self._emptied[key] = (uid, now)
        return self._emptied[key][1]

    def _try(self, what: str, read: Callable[[], T]) -> T | None:
        """Read a source; a failure is told once, and None."""
        try:
            value = read()
        except MALFORMED as problem:
            self._set_fault(what, fault_text(problem))
            return None
        self._set_fault(what, None)
        return value

    def _set_fault(self, what: str, fault: str | None) -> None:
        """Note what is wrong with a source, None if nothing is; it is told when that changes."""
        if fault is None:
            self.faults.pop(what, None)
        elif self.faults.get(what) != fault:
            log.error("%s, the last good reading is kept: %s", what, fault)
            self.faults[what] = fault
