"""The controller's state: the watched objects of the cluster, and values derived from them. Pure: sends no request."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from exclave.api.definitions.admission import first_fault
from exclave.api.group import namespace_fault, parse_group
from exclave.api.issuer import Issuer
from exclave.api.linkerd.config import config_fault, read_linkerd
from exclave.api.linkerd.proxy_image import with_digest
from exclave.api.malformed import MALFORMED, fault_text
from exclave.api.member import Condition, view_member
from exclave.api.names import group_of_member, parse_member_name
from exclave.api.requests import Object, Request
from exclave.api.workload.opaque_ports import OpaqueMismatch
from exclave.api.workload.withdrawal import is_withdrawn
from exclave.controller.cache import Cache, key_of, uid_of
from exclave.controller.mesh.publish import Published, last_good, read_control_plane
from exclave.controller.mesh.trust import ANCHORS, ISSUER, Trust, choose_trust
from exclave.controller.policy.accept import ACCOUNT_SHARED, WAITING, GroupRights, accepted_condition
from exclave.controller.policy.claims import Claims, neighbour_of
from exclave.controller.policy.liveness import SHORTEST, Liveness, interval_for, lease_fields
from exclave.controller.policy.mark import MarkKey
from exclave.controller.policy.register import is_ready
from exclave.controller.policy.snapshot import Group, Key, MemberSnapshot, Mesh, workload_ports
from exclave.controller.telemetry.malformed_log import MalformedLog

log = logging.getLogger(__name__)

T = TypeVar("T")

CONFIG = "config"  # name of a source, beside `ANCHORS` and `ISSUER`: Linkerd's ConfigMap linkerd-config


class ClusterState:
    """All watched objects by kind, and the values derived from them."""

    def __init__(self, namespace: str, linkerd_namespace: str, malformed: MalformedLog | None = None) -> None:
        self.namespace = namespace
        self.linkerd_namespace = linkerd_namespace
        self.malformed = malformed or MalformedLog(lambda: 0.0)
        self.groups, self.members, self.workloads, self.leases = Cache(), Cache(), Cache(), Cache()
        self.config, self.anchors, self.secret = Cache(), Cache(), Cache()
        self.linkerd_slices, self.dns_slices = Cache(), Cache()
        self.proxy_images: dict[str, str] = {}  # digests of the proxy's images that Linkerd runs, by name and tag
        self.admission: dict[str, Cache] = {}  # the policies and their bindings, by kind and name
        self.admission_fault: str | None = None  # how they differ from the installed ones
        self.faulty_policy: Object | None = None  # the object with this fault, or the first object
        self.heartbeat = SHORTEST  # seconds between two heartbeats of a member
        self.mesh: Mesh | None = None
        self.server_ca = ""  # PEM of the API server's CAs, as this pod trusts them
        self.trust: Trust | None = None
        self.faults: dict[str, str] = {}  # why a source cannot be read, by its name
        self.mark_key: MarkKey | None = None
        self.mark_fault: str | None = None  # why there is no `mark_key`
        self._accepted: dict[Key, Condition] = {}  # condition Accepted of groups, as decided last
        self._account_rights: dict[str, GroupRights] = {}  # by the groups' namespace
        self._settings_faults: dict[Key, str] = {}  # the right that is missing to write a group's settings
        self.opaque_mismatches: dict[Key, tuple[OpaqueMismatch, ...]] = {}  # of Services that select a group
        self.published: dict[Key, Published] = {}  # the settings that a group has in the cluster
        self.liveness = Liveness(self.members, self.leases)
        self._groups: dict[Key, Group] = {}  # last good readings
        self._group_objects: dict[Key, Object] = {}  # the objects that were read last
        self._claims = Claims()
        self._reserved: dict[Key, Object] = {}  # ExternalWorkloads in requests that are under way
        # A name may come back, so these hold the uid of the object that they are about.
        # uid of the ExternalWorkload, and since when it has no ports; has some, but is not Ready; is marked.
        self._emptied: dict[Key, tuple[str, float]] = {}
        self._unready: dict[Key, tuple[str, float]] = {}
        self._withdrawn: dict[Key, tuple[str, float]] = {}
        self._has_account: dict[Key, str] = {}
        self._account_deleted: dict[Key, str] = {}

    # Linkerd, the issuer, the admission policies.

    @property
    def issuer(self) -> Issuer | None:
        """The issuer that signs, None if there is none."""
        return self.trust.issuer if self.trust is not None else None

    @property
    def mesh_fault(self) -> str | None:
        """The reason why there is no mesh, as a message for a machine that waits for it; None if there is one."""
        if self.mesh is not None:
            return None
        sources = (
            (CONFIG, self.config, "Linkerd's ConfigMap linkerd-config is missing"),
            (ANCHORS, self.anchors, "Linkerd's ConfigMap linkerd-identity-trust-roots is missing"),
            (ISSUER, self.secret, "the issuer's Secret is missing"),
        )
        faults = [self.faults.get(source) or ("" if cache.objects else missing) for source, cache, missing in sources]
        return f"the controller can certify nobody yet: {'; '.join(one for one in faults if one) or 'it is reading'}"

    @property
    def mesh_faults(self) -> tuple[str, ...]:
        """Why the newest issuer, anchors or settings of Linkerd are not used, in whole or in part."""
        return tuple(self.faults[source] for source in (CONFIG, ANCHORS, ISSUER) if source in self.faults)

    def refresh_mesh(self, now: float) -> bool:
        """Read Linkerd's objects and the issuer again. True if something changed that members must learn."""
        before, fault, faults_before = self.mesh, self.mesh_fault, self.mesh_faults
        config, linkerd = self.config.single(), before.linkerd if before else None
        refused: Mapping[str, str] = {}
        if config is not None:
            linkerd, refused = read_linkerd(config, self.linkerd_namespace, linkerd)
        self._set_fault(CONFIG, config_fault(refused))
        trust, faults = choose_trust(self.secret.single(), self.anchors.single(), self.trust, now, linkerd)
        if linkerd is not None:  # before, it is unknown whether proxies accept what an issuer signs
            self.trust = trust
        for source in (ANCHORS, ISSUER):
            self._set_fault(source, faults.get(source))
        if linkerd is not None and self.trust is not None:
            issuer = self.trust.issuer
            found = read_control_plane(
                self.linkerd_slices.objects.values(),
                self.dns_slices.objects.values(),
                lambda one, problem: self.malformed.report(f"EndpointSlice {'/'.join(key_of(one))}", problem),
            )
            control_plane = last_good(found, before.control_plane if before else None)
            linkerd = with_digest(linkerd, self.proxy_images)
            ends, path = issuer.not_after, issuer.path
            self.mesh = Mesh(
                linkerd, self.trust.anchors, issuer.sha256, control_plane, ends, path, server_ca=self.server_ca
            )
        return (self.mesh, self.mesh_fault, self.mesh_faults) != (before, fault, faults_before)

    def refresh_admission(self, wanted: Iterable[Object]) -> bool:
        """Compare the admission policies with the wanted ones again. True if `admission_fault` changed."""
        before, wanted = self.admission_fault, list(wanted)
        found = [one for cache in self.admission.values() if (one := cache.single()) is not None]
        self.faulty_policy, self.admission_fault = first_fault(found, wanted) or (wanted[0], None)
        return self.admission_fault != before

    def refresh_heartbeat(self) -> bool:
        """Choose the heartbeat interval for the number of members. True if it changed."""
        before = self.heartbeat
        self.heartbeat = interval_for(len(self.members.objects), before)
        # A member that has not loaded a shorter interval yet still uses the longer one.
        if self.heartbeat > before or (self.liveness.patience > self.heartbeat and self._all_have_loaded()):
            self.liveness.patience = self.heartbeat
        return self.heartbeat != before

    def _all_have_loaded(self) -> bool:
        digests = {settings.digest for settings in self.published.values()}
        live = (self.members.objects[key] for key in self.liveness.live if key in self.members.objects)
        return all(view_member(one).loaded.get("settings") in digests for one in live)

    # Groups.

    def group(self, key: Key) -> Group | None:
        """A WorkloadGroup, or its last good reading; None if there is none."""
        found = self.groups.objects.get(key)
        if found is None:
            self._groups.pop(key, None)
            self._group_objects.pop(key, None)
            self.faults.pop(f"WorkloadGroup {key[0]}/{key[1]}", None)
            return None
        if self._group_objects.get(key) is found:  # this function runs for every Member that is reconciled
            return self._groups.get(key)
        self._group_objects[key] = found
        namespace, name = key
        if key in self._groups and self._groups[key].uid != uid_of(found):
            del self._groups[key]  # the group was deleted
        spec = self._read_source(
            f"WorkloadGroup {namespace}/{name}", lambda: parse_group(name, found.get("spec") or {})
        )
        if spec is not None:
            self._groups[key] = Group(namespace, name, uid_of(found), spec)
        return self._groups.get(key)

    def accepted(self, key: Key) -> Condition:
        """Condition Accepted of a WorkloadGroup that exists; decided again after a change of a group beside it."""
        deleting = self.groups.objects[key]["metadata"].get("deletionTimestamp")  # its message counts the members
        if key not in self._accepted or deleting:
            others = [one for where, one in self.groups.objects.items() if where[0] == key[0]]
            refused = namespace_fault(key[0], self.namespace, self.linkerd_namespace) is not None
            self._accepted[key] = accepted_condition(
                self.groups.objects[key],
                others,
                self._rights_of(key),
                members=len(self.members_of(*key)),
                refused_namespace=refused,
            )
        return self._accepted[key]

    def _rights_of(self, key: Key) -> GroupRights:
        rights, fault = self._account_rights.get(key[0], GroupRights()), self._settings_faults.get(key)
        return rights if fault is None else GroupRights(rights.foreign, fault)

    def has_read_rights(self, namespace: str) -> bool:
        """True if it is known who has rights in the namespace of the machines' accounts of these groups."""
        rights = self._account_rights.get(namespace)
        return rights is not None and rights.fault is None

    def forget_group(self, key: Key) -> None:
        """Forget a group that is gone, and who has rights in its namespace, if it was the last one there."""
        self.group(key)
        if not any(one == key[0] for one, _ in self.groups.objects):
            self._account_rights.pop(key[0], None)

    def store_rights(self, namespace: str, rights: GroupRights) -> bool:
        """Store who has rights there. True if that has changed; then groups there may be accepted or not any more."""
        if self._account_rights.get(namespace) == rights:
            return False
        self._account_rights[namespace] = rights
        self.groups_changed({namespace})
        return True

    def set_settings_fault(self, key: Key, fault: str | None) -> None:
        """Store which right is missing to write a group's settings, None if none is."""
        if self._settings_faults.get(key) == fault:
            return
        self._settings_faults.pop(key, None)
        if fault is not None:
            self._settings_faults[key] = fault
        self._accepted.pop(key, None)

    def groups_changed(self, namespaces: Collection[str]) -> list[Key]:
        """Forget which groups are accepted there. Returns the groups there: two of them may want one account."""
        self._accepted = {key: one for key, one in self._accepted.items() if key[0] not in namespaces}
        return [key for key in self.groups.objects if key[0] in namespaces]

    def namespaces(self) -> list[str]:
        """The namespaces with groups, without those that may have none."""
        found = sorted({namespace for namespace, _ in self.groups.objects})
        return [one for one in found if namespace_fault(one, self.namespace, self.linkerd_namespace) is None]

    @property
    def refused_groups(self) -> int:
        """The number of groups that take no new members, as far as decided."""
        return sum(not one.status for key, one in self._accepted.items() if key in self.groups.objects)

    def readable_groups(self) -> list[Group]:
        """All WorkloadGroups that can be read."""
        return [group for key in list(self.groups.objects) if (group := self.group(key)) is not None]

    def members_of(self, namespace: str, group: str) -> list[Key]:
        """The Members of a group."""
        return [key for key in self.members.objects if key[0] == namespace and group_of_member(key[1]) == group]

    def _group_of(self, key: Key) -> Group | None:
        try:
            return self.group((key[0], parse_member_name(key[1]).group))
        except ValueError:
            return None

    # Members.

    def refresh_members(self, keys: Iterable[Key]) -> set[Key]:
        """Read the Members of these keys again. Returns the other Members that the changes affect."""
        concerned: set[Key] = set()
        for key in list(keys):
            with self.malformed.isolate(f"Member {'/'.join(key)}"):
                concerned |= self._refresh_member(key)
        return concerned

    def _refresh_member(self, key: Key) -> set[Key]:
        member = self.members.objects.get(key)
        if member is None:
            for memory in (self._reserved, self._has_account, self._account_deleted):
                memory.pop(key, None)
            for since in (self._emptied, self._unready, self._withdrawn):
                since.pop(key, None)
            return self._claims.refresh(key, None)
        neighbour = neighbour_of(
            member,
            self.workloads.objects.get(key),
            self._group_of(key),
            live=self.liveness.is_live(key),
            reserved=self._reserved.get(key),
        )
        return self._claims.refresh(key, neighbour)

    def reserve_address(self, key: Key, request: Request | None) -> set[Key]:
        """Reserve the address in an ExternalWorkload's request; None ends it. Returns the other Members affected."""
        # Another Member that is reconciled during the request must not get the same address.
        if request is None or request.body is None:
            self._reserved.pop(key, None)
        else:
            self._reserved[key] = request.body
        return self._refresh_member(key)

    def snapshot(self, key: Key, now: float) -> MemberSnapshot | None:
        """The Member and everything that belongs to it; None if there is no such Member."""
        member = self.members.objects.get(key)
        if member is None:
            return None
        group, uid = self._group_of(key), uid_of(member)
        workload = self.workloads.objects.get(key)
        has_ports = bool(workload_ports(workload))
        published = self.published.get((group.namespace, group.name)) if group else None
        accepted = self.accepted((group.namespace, group.name)) if group else None
        refusal = f"{accepted.reason}: {accepted.message}" if accepted and not accepted.status else None
        is_waiting = accepted is not None and accepted.reason in WAITING
        return MemberSnapshot(
            member=member,
            now=now,
            group=group,
            mesh=self.mesh,
            settings_digest=published.digest if published else None,
            settings_ports=published.ports if published else frozenset(),
            admission_fault=self.admission_fault,
            mesh_fault=self.mesh_fault,
            group_refusal=None if is_waiting else refusal,
            group_wait=refusal if is_waiting else None,
            shares_account=accepted is not None and accepted.reason == ACCOUNT_SHARED,
            namespace_refusal=namespace_fault(key[0], self.namespace, self.linkerd_namespace),
            mark_key=self.mark_key,
            mark_fault=self.mark_fault,
            neighbours=self._claims.sharing_with(key),
            workload=workload,
            has_account=self._has_account.get(key) == uid,
            has_lease=key in self.leases.objects,
            has_heartbeat=self.liveness.has_heartbeat(key),
            live=self.liveness.is_live(key),
            clones=self.liveness.clones(key, now),
            emptied_at=_since(self._emptied, key, workload, workload is not None and not has_ports, now),
            unready_at=_since(self._unready, key, workload, has_ports and not is_ready(workload), now),
            withdrawn_at=_since(self._withdrawn, key, workload, is_withdrawn(workload), now),
            account_deleted=self._account_deleted.get(key) == uid,
        )

    def apply_result(
        self, key: Key, before: MemberSnapshot, after: MemberSnapshot | None
    ) -> tuple[MemberSnapshot | None, set[Key]]:
        """Store the result of a transition until the watches report it; `after` is None if the Member is gone.

        Returns the snapshot to continue with, None if the Member is gone, and the other affected Members. Newer watch
        events are not overwritten, because they are not sent again.
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
        if before.has_lease and not after.has_lease:
            self.leases.objects.pop(key, None)
            self.liveness.forget(key)
        if member is None:
            return None, self._refresh_member(key)
        if uid_of(member) != uid:  # another Member of this name: the result belongs to the former one
            return None, {key, *self._refresh_member(key)}
        for is_so, memory in (
            (after.has_account, self._has_account),
            (after.account_deleted, self._account_deleted),
        ):
            if is_so:
                memory[key] = uid
            else:
                memory.pop(key, None)
        if after.adopted_lease is not None:
            self.leases.merge_response(key, lease_fields(after.adopted_lease))
            self.liveness.observe(key, after.now)
            self.liveness.mark_live([key])
            has_heartbeat, live = self.liveness.has_heartbeat(key), self.liveness.is_live(key)
            after = after.replaced(adopted_lease=None, has_heartbeat=has_heartbeat, live=live)
        workload = self.workloads.objects.get(key)
        return after.replaced(member=member, workload=workload), self._refresh_member(key)

    # Faults of sources.

    # Logs a new fault once. After a fault the last good reading stays in use.
    def _read_source(self, source: str, read: Callable[[], T]) -> T | None:
        try:
            value = read()
        except MALFORMED as problem:
            self._set_fault(source, fault_text(problem))
            return None
        self._set_fault(source, None)
        return value

    def _set_fault(self, source: str, fault: str | None) -> None:
        if fault is None:
            self.faults.pop(source, None)
        elif self.faults.get(source) != fault:
            log.error("%s, the last good reading is kept: %s", source, fault)
            self.faults[source] = fault


def _since(
    memory: dict[Key, tuple[str, float]], key: Key, workload: Object | None, is_so: bool, now: float
) -> float | None:
    """The time when an ExternalWorkload was first found so, None if it is not so."""
    if not is_so:
        memory.pop(key, None)
        return None
    uid = uid_of(workload)
    if key not in memory or memory[key][0] != uid:
        memory[key] = (uid, now)
    return memory[key][1]
