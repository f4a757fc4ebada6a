"""Several Members under the controller's whole policy, without a cluster: each transition is executed at once.

fleet = Fleet()
fleet.join("web-k7q2x-1", "10.77.0.20"); fleet.send_heartbeats(); assert fleet.listed("10.77.0.20") == ["web-k7q2x-1"]
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from exclave.api.group import render_group
from exclave.api.member import member_object
from exclave.api.requests import Object
from exclave.cluster.watch import Upserted
from exclave.controller.cluster_state import ClusterState
from exclave.controller.policy.accept import GroupRights
from exclave.controller.policy.snapshot import Key, MemberSnapshot, workload_ports
from exclave.controller.policy.transitions import (
    Action,
    DeleteMember,
    MarkNotReady,
    PutWorkload,
    RecheckAfter,
    Transition,
    next_transition,
)
from exclave.kit.formats.times import rfc3339, rfc3339_micro
from exclave_sandbox.apiserver.kinds.kinds import merge_patch

from .snapshots import CSR, DELIVERY_KEY, GROUP, MARK_KEY, MESH, NAMESPACE, NOW, executed


class Fleet:
    """Groups `web` and `api` in namespace shop, and `pay` in namespace bank. Networks: 10.77.0.0/24 by default."""

    def __init__(self, **networks: tuple[str, ...]) -> None:
        self.now = NOW
        self.state = ClusterState("exclave", "linkerd")
        self.state.mesh, self.state.mark_key = MESH, MARK_KEY
        self._store_rights()
        self.silent: set[Key] = set()
        self.gone: list[str] = []
        self._made = 0
        for namespace, name in ((NAMESPACE, "web"), (NAMESPACE, "api"), ("bank", "pay")):
            spec = replace(GROUP.spec, service_account=name, networks=networks.get(name, GROUP.spec.networks))
            metadata = {"namespace": namespace, "name": name, "uid": name}
            self.state.groups.apply(Upserted({"metadata": metadata, "spec": render_group(spec)}))

    # What machines and admins do.

    def join(self, name: str, address: str, *, machine: str | None = None) -> None:
        """A machine creates its Member, and sends heartbeats if it is admitted."""
        key = self.key(name)
        self._made += 1
        member = member_object(
            *key,
            nonce="n",
            machine_hash=machine or f"{self._made:016x}",
            delivery_key=DELIVERY_KEY,
            csr=CSR,
            addresses=[address],
            facts={},
        )
        member["metadata"] |= {"uid": name, "creationTimestamp": rfc3339(self.now)}
        self.store_member(key, member)
        if self.condition(name, "Admitted") == "Admitted":
            self.send_heartbeats()
            self.states(name, serving=True)

    def states(self, name: str, **spec: Any) -> None:
        """A machine changes its Member."""
        key = self.key(name)
        self.store_member(key, merge_patch(self.state.members.objects[key], {"spec": spec}))

    def send_heartbeats(self, seconds: float = 1.0) -> None:
        """Time passes, and every member that was admitted and is not silent sends a heartbeat."""
        self.now += seconds
        waking = []
        for key in list(self.state.members.objects):
            if key not in self.silent and key in self.state.leases.objects:
                self._renew(key)
                if self.state.liveness.observe(key, self.now):
                    waking.append(key)
        self.state.liveness.mark_live(waking)
        self.reconcile({*waking, *self.state.liveness.refresh(self.now)})

    def fall_silent(self, name: str) -> None:
        """A machine sends no heartbeat for long enough."""
        self.silent.add(self.key(name))
        for _ in range(7):
            self.send_heartbeats(5.0)

    def return_(self, name: str) -> None:
        """It sends them again."""
        self.silent.discard(self.key(name))
        self.send_heartbeats()
        self.send_heartbeats()

    def evict(self, name: str) -> None:
        """An admin deletes a Member."""
        key = self.key(name)
        self.store_member(key, merge_patch(self.state.members.objects[key], {"metadata": {"deletionTimestamp": "now"}}))
        self.send_heartbeats(11.0)

    # The objects after that.

    def condition(self, name: str, kind: str) -> str:
        """The reason of a Member's condition, "" if it has none."""
        status = self.state.members.objects[self.key(name)].get("status") or {}
        return next((one["reason"] for one in status.get("conditions", ()) if one["type"] == kind), "")

    def listed(self, address: str) -> list[str]:
        """The members whose ports are listed at an address. Two would break every lookup of it."""
        return [
            key[1]
            for key, one in sorted(self.state.workloads.objects.items())
            if workload_ports(one) and {"ip": address} in one["spec"]["workloadIPs"]
        ]

    def members(self) -> list[str]:
        """The names of all Members."""
        return sorted(name for _, name in self.state.members.objects)

    # The controller.

    def restart_controller(self) -> None:
        """Another controller starts with the objects in the cluster."""
        old, self.state = self.state, ClusterState("exclave", "linkerd")
        self.state.mesh, self.state.mark_key = MESH, MARK_KEY
        self._store_rights()
        for kind in ("groups", "members", "workloads", "leases"):
            getattr(self.state, kind).objects = dict(getattr(old, kind).objects)
        for key in self.state.leases.objects:
            self.state.liveness.observe(key, self.now)
        self.state.liveness.refresh(self.now)
        self.state.refresh_members(self.state.members.objects)
        self.reconcile(self.state.members.objects)

    def _store_rights(self) -> None:
        for namespace in (NAMESPACE, "bank"):
            self.state.store_rights(namespace, GroupRights(()))

    def store_member(self, key: Key, member: Object) -> None:
        """A watch reports a Member."""
        self.state.members.apply(Upserted(member))
        self.reconcile((key,))

    def reconcile(self, keys: Iterable[Key]) -> None:
        """Reconcile these Members, and those that their changes concern."""
        keys = list(keys)
        waiting = [*keys, *sorted(self.state.refresh_members(keys))]
        reconciled = 0
        while waiting:
            reconciled += 1
            assert reconciled < 1000, "two rules contradict each other"
            waiting += self._reconcile(waiting.pop(0))

    def _reconcile(self, key: Key) -> list[Key]:
        concerned: list[Key] = []
        snapshot = self.state.snapshot(key, self.now)
        while snapshot is not None:
            transition = next_transition(snapshot)
            concerned += self.state.reserve_address(
                key, transition.request if isinstance(transition, PutWorkload) else None
            )
            if isinstance(transition, RecheckAfter) and transition.seconds in (
                snapshot.settle_left,
                snapshot.notice_left,
            ):
                self.now += transition.seconds
                snapshot = self.state.snapshot(key, self.now)
                continue
            if transition is None or isinstance(transition, RecheckAfter):
                break
            changed, others = self.state.apply_result(key, snapshot, self._executed(transition, snapshot))
            concerned += others
            for one in self.state.workloads.objects.values():
                for place in one["spec"]["workloadIPs"]:
                    assert len(self.listed(place["ip"])) <= 1, "no two are ever listed at one address"
            snapshot = changed
        return concerned

    def _executed(self, transition: Transition, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        key = (snapshot.namespace, snapshot.view.name)
        assert not isinstance(transition, MarkNotReady), "no ExternalWorkload has a status"
        if isinstance(transition, DeleteMember) or transition is Action.RELEASE_MEMBER:
            self.gone.append(snapshot.view.name)
            for existing in (self.state.workloads, self.state.leases):
                existing.objects.pop(key, None)
            return None
        if transition is Action.MAKE_LEASE:
            self.state.leases.apply(Upserted({"metadata": {"namespace": key[0], "name": key[1]}, "spec": {}}))
            self.state.liveness.observe(key, self.now)
        after = executed(transition, snapshot)
        if isinstance(transition, PutWorkload):
            place = {"metadata": {"namespace": key[0], "name": key[1]}}
            return after.replaced(workload=merge_patch(after.workload or {}, place))
        return after

    def _renew(self, key: Key) -> None:
        metadata = {"namespace": key[0], "name": key[1]}
        self.state.leases.apply(Upserted({"metadata": metadata, "spec": {"renewTime": rfc3339_micro(self.now)}}))

    def key(self, name: str) -> Key:
        """Namespace and name of a Member."""
        return ("bank" if name.startswith("pay-") else NAMESPACE, name)
