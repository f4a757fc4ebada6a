"""Leases that are renewed, fall silent, come back, and are renewed by two machines."""

from dataclasses import replace

import pytest

from exclave.cluster.watch import Listed, Removed, Upserted
from exclave.controller.cluster_state import ClusterState

from .snapshots import LIVE, NAME, NAMESPACE, NOW, make_lease, make_member, with_metadata, with_status

KEY = (NAMESPACE, NAME)


async def test_heartbeats_make_live_and_silence_ends_it() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))
    state.leases.apply(Upserted(make_lease(None)))
    state.liveness.observe(KEY, NOW - 1)
    state.leases.apply(Upserted(make_lease()))
    assert state.liveness.observe(KEY, NOW), "it was not live before"
    assert state.liveness.refresh(NOW) == {KEY}
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None and snapshot.live and snapshot.has_heartbeat
    assert not state.liveness.observe(KEY, NOW + 20), "one that is live need not be looked at again"
    assert state.liveness.refresh(NOW + 30) == state.liveness.overdue(NOW + 30) == set()
    assert state.liveness.overdue(NOW + 31) == {KEY}
    assert state.liveness.refresh(NOW + 31, {KEY}) == set(), "its Lease could not be read"
    assert state.liveness.refresh(NOW + 31, {("shop", "another")}) == {KEY}
    assert state.liveness.overdue(NOW + 31) == set(), "it is asked after once"
    state.leases.apply(Upserted(make_lease("2027-01-15T08:00:31.000000Z")))
    assert state.liveness.observe(KEY, NOW + 31) and state.liveness.refresh(NOW + 31) == {KEY}
    state.leases.apply(Removed(make_lease()))
    assert state.liveness.observe(KEY, NOW + 32) and state.liveness.refresh(NOW + 32) == {KEY}


async def test_a_heartbeat_makes_its_member_live_at_once_and_one_from_long_ago_does_not() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))
    state.leases.apply(Upserted(make_lease()))
    state.liveness.observe(KEY, NOW)
    state.liveness.mark_live([KEY])
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None and not snapshot.live and snapshot.has_heartbeat
    state.leases.apply(Upserted(make_lease("2027-01-15T08:00:31.000000Z")))
    state.liveness.observe(KEY, NOW + 1)
    state.liveness.mark_live([KEY])
    snapshot = state.snapshot(KEY, NOW + 1)
    assert snapshot is not None and snapshot.live


async def test_leases_of_others_are_none_of_the_fleets() -> None:
    state = ClusterState("exclave", "linkerd")
    node = ("kube-node-lease", "node-1")
    metadata = {"namespace": node[0], "name": node[1]}
    for renewed in ("2027-01-15T08:00:00.000000Z", "2027-01-15T08:00:10.000000Z"):
        state.leases.apply(Upserted({"metadata": metadata, "spec": {"renewTime": renewed}}))
        state.liveness.observe(node, NOW)
    state.liveness.mark_live([node])
    assert state.liveness.refresh(NOW) == set()
    assert state.liveness.overdue(NOW + 100) == set()
    for number in range(1000):
        state.members.apply(Upserted(with_metadata(make_member(), name=f"web-k7q2x-{number}")))
    assert state.refresh_heartbeat()
    state.members.apply(Listed(()))
    assert state.refresh_heartbeat() and state.heartbeat == 10.0


async def test_leases_and_members_may_arrive_in_any_order() -> None:
    state = ClusterState("exclave", "linkerd")
    state.leases.apply(Upserted(make_lease()))
    state.liveness.observe(KEY, NOW)
    state.members.apply(Upserted(with_status(make_member(), LIVE)))
    assert state.liveness.refresh(NOW) == {KEY}


@pytest.mark.parametrize("was_live", [True, False])
async def test_after_a_start_a_member_is_live_by_its_status_until_its_lease_changes(was_live: bool) -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(with_status(make_member(), replace(LIVE, status=was_live))))
    state.leases.apply(Upserted(make_lease()))
    state.liveness.observe(KEY, NOW)
    assert state.liveness.refresh(NOW) == ({KEY} if was_live else set())
    state.leases.apply(Upserted(make_lease("2027-01-15T08:00:31.000000Z")))
    state.liveness.observe(KEY, NOW + 10)
    state.liveness.refresh(NOW + 10)
    snapshot = state.snapshot(KEY, NOW + 10)
    assert snapshot is not None and snapshot.live and snapshot.has_heartbeat


async def test_two_machines_that_renew_one_lease_in_turns_are_noticed() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))
    for second, boot in enumerate(("a", "b", "a")):
        state.leases.apply(Upserted(make_lease(f"2027-01-15T08:00:0{second}.000000Z", holderIdentity=f"host.{boot}")))
        asked = state.liveness.observe(KEY, NOW + second)
        state.liveness.refresh(NOW + second)
    assert asked, "its member must be looked at, though it is live"
    snapshot = state.snapshot(KEY, NOW + 3)
    assert snapshot is not None and snapshot.clones == ("host.a", "host.b")


def test_another_member_of_the_same_name_is_not_live_before_its_own_heartbeat() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(with_status(with_metadata(make_member(), uid="first"), LIVE)))
    state.leases.apply(Upserted(make_lease()))
    state.liveness.observe(KEY, NOW)
    assert state.liveness.refresh(NOW) == {KEY}
    state.leases.apply(Removed(make_lease()))
    state.liveness.observe(KEY, NOW + 1)
    state.members.apply(Listed((with_metadata(make_member(), uid="second"),)))
    state.leases.apply(Upserted(make_lease(None)))
    assert state.liveness.observe(KEY, NOW + 1)
    second = state.snapshot(KEY, NOW + 1)
    assert second is not None and second.has_lease and not second.has_heartbeat and not second.live
    state.leases.apply(Upserted(make_lease("2027-01-15T08:00:02.000000Z")))
    assert state.liveness.observe(KEY, NOW + 2), "its first heartbeat is not taken for one of many"
    state.liveness.mark_live([KEY])
    second = state.snapshot(KEY, NOW + 2)
    assert second is not None and second.has_heartbeat and second.live
