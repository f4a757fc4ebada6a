"""Leases that are renewed, fall silent, come back, and are renewed by two machines."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.cluster.watch import Listed, Removed, Upserted
from exclave.controller.cluster_state import ClusterState
from exclave.controller.policy.liveness import (
    FORGET_CLONE,
    LONGEST_HOLDER,
    MOST_HOLDERS,
    MOST_WRITES,
    SHORTEST,
    Holders,
    LeaseObservation,
    holder_of,
    interval_for,
    lease_fields,
    live_members,
)

from ..snapshots import LIVE, NAME, NAMESPACE, NOW, make_lease, make_member, with_metadata, with_status

INTERVAL = 10.0
KEYS = [("shop", f"web-k7q2x-{number}") for number in range(1, 7)]


def live(ages: dict[int, float | None], before: set[int], watching_for: float = 3600.0) -> set[int]:
    """Numbers of live members, from how long ago each Lease changed; None: it was never renewed."""
    observations = {
        KEYS[number]: LeaseObservation(None if age is None else "t", NOW - (age or 0.0)) for number, age in ages.items()
    }
    were = [KEYS[number] for number in before]
    found = live_members(observations, were, interval=INTERVAL, watching_since=NOW - watching_for, now=NOW)
    return {KEYS.index(key) for key in found}


@pytest.mark.parametrize(
    ("ages", "before", "watching_for", "wanted"),
    [
        pytest.param({0: 5.0}, {0}, 3600.0, {0}, id="a member whose Lease changed is live"),
        pytest.param({0: 30.0}, {0}, 3600.0, {0}, id="silence of three intervals is allowed"),
        pytest.param({0: 30.1}, {0}, 3600.0, set(), id="longer silence is not"),
        pytest.param({0: 0.0}, set(), 3600.0, {0}, id="a member that renews again is live at once"),
        pytest.param({0: None}, set(), 3600.0, set(), id="an empty Lease is no heartbeat"),
        pytest.param({0: 500.0}, {0}, 20.0, {0}, id="time without a working watch is no silence"),
        pytest.param({}, {0}, 3600.0, set(), id="without a Lease no member is live"),
        pytest.param({0: 99.0, 1: 99.0, 2: 5.0}, {0, 1, 2}, 3600.0, {2}, id="two of three are too few for one event"),
        pytest.param(
            {0: 99.0, 1: 99.0, 2: 99.0},
            {0, 1, 2},
            3600.0,
            {0, 1, 2},
            id="three of three are one event and stay live",
        ),
        pytest.param(
            {0: 99.0, 1: 99.0, 2: 99.0, 3: 1.0, 4: 1.0, 5: 1.0},
            {0, 1, 2, 3, 4, 5},
            3600.0,
            {3, 4, 5},
            id="half of the fleet is not more than half",
        ),
        pytest.param(
            {0: 99.0, 1: 99.0, 2: 99.0, 3: 1.0, 4: 1.0},
            {0, 1, 2, 3, 4},
            3600.0,
            {0, 1, 2, 3, 4},
            id="more than half of the fleet is one event",
        ),
        pytest.param(
            {0: 99.0, 1: 99.0, 2: 99.0, 3: 1.0}, {3}, 3600.0, {3}, id="a member that was silent before stays silent"
        ),
    ],
)
def test_live(ages: dict[int, float | None], before: set[int], watching_for: float, wanted: set[int]) -> None:
    assert live(ages, before, watching_for) == wanted


@given(st.dictionaries(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 100))), st.sets(st.integers(0, 5)))
def test_members_are_live_by_their_lease_or_all_together(ages: dict[int, float | None], before: set[int]) -> None:
    found = live(ages, before)
    fresh = {number for number, age in ages.items() if age is not None and age <= 30.0}
    lost = (before & set(ages)) - fresh
    assert fresh <= found <= fresh | lost
    assert found in (fresh, fresh | lost), "all who went stale together are withdrawn, or none"


def test_a_lease_is_dated_by_our_clock_and_only_if_it_changed() -> None:
    first = LeaseObservation("their clock says 1970", NOW)
    assert not first.changed
    assert first.observe("their clock says 1970", NOW + 9) is first
    assert first.observe("later", NOW + 9) == LeaseObservation("later", NOW + 9, changed=True)


@pytest.mark.parametrize(
    ("members", "current", "interval"),
    [
        pytest.param(0, 10.0, 10.0, id="nobody"),
        pytest.param(500, 10.0, 10.0, id="as many as ten seconds allow"),
        pytest.param(501, 10.0, 20.0, id="one more"),
        pytest.param(10_000, 10.0, 320.0, id="ten thousand"),
        pytest.param(499, 20.0, 20.0, id="a few less change nothing again"),
        pytest.param(400, 20.0, 10.0, id="many less do"),
    ],
)
def test_the_interval_follows_the_fleet(members: int, current: float, interval: float) -> None:
    assert interval_for(members, current) == interval


@given(st.integers(0, 100_000), st.integers(0, 12))
def test_the_limit_holds_and_the_choice_is_final(members: int, doublings: int) -> None:
    interval = interval_for(members, SHORTEST * 2**doublings)
    assert members / interval <= MOST_WRITES
    assert interval >= SHORTEST
    assert interval_for(members, interval) == interval


def observed(*holders: str) -> Holders:
    found = Holders()
    for second, holder in enumerate(holders):
        found = found.observe(holder, float(second))
    return found


@pytest.mark.parametrize(
    ("holders", "clones"),
    [
        pytest.param(["a"], None, id="one machine"),
        pytest.param(["a", "a", "a"], None, id="one machine, again and again"),
        pytest.param(["a", "b", "c"], None, id="one machine that boots again and again"),
        pytest.param(["a", "b", "a"], ("a", "b"), id="two machines that take turns"),
        pytest.param(["a", "b", "a", "b"], ("a", "b"), id="two machines that continue to take turns"),
        pytest.param(["a", "", "a"], None, id="a Lease that was emptied"),
    ],
)
def test_a_boot_that_comes_back_means_two_machines(holders: list[str], clones: tuple[str, str] | None) -> None:
    assert observed(*holders).clones(10.0) == clones


def test_the_boots_of_a_lease_that_are_remembered_are_bounded() -> None:
    found = observed(*(f"boot-{number}" for number in range(1000)))
    assert len(found.before) == MOST_HOLDERS
    assert found.observe("boot-998", 1000.0).clones(1000.0) == ("boot-998", "boot-999")


def test_of_a_lease_that_a_tenant_has_filled_little_is_stored() -> None:
    """Its holder is stored for each earlier boot, too."""
    noise = {f"a.b/{number}": "x" * 1000 for number in range(200)}
    lease = make_lease()
    filled = {**lease, "metadata": {**lease["metadata"], "annotations": noise, "labels": noise}}
    filled["spec"] = {**lease["spec"], "holderIdentity": "x" * 1_000_000, "strategy": "y" * 100_000}
    found = lease_fields(filled)
    assert len(json.dumps(found)) < 1000
    assert holder_of(found) == "x" * LONGEST_HOLDER
    assert lease_fields(lease)["spec"]["renewTime"] == lease["spec"]["renewTime"]
    assert lease_fields(found) == found


@pytest.mark.parametrize("malformed", [{}, {"metadata": 7}, {"metadata": {"name": "a"}, "spec": ["x"]}], ids=str)
def test_a_malformed_lease_is_left_as_it_is(malformed: dict[str, object]) -> None:
    assert lease_fields(malformed) == malformed


def test_two_boots_in_turns_are_reported_in_one_order() -> None:
    heard = ["a", "b", "a"]
    for holder in ("b", "a", "b"):
        heard.append(holder)
        assert observed(*heard).returned == ("a", "b")


def test_a_clone_that_has_fallen_silent_is_forgotten() -> None:
    found = observed("a", "b", "a")
    assert found.clones(2.0 + FORGET_CLONE) == ("a", "b")
    assert found.clones(2.0 + FORGET_CLONE + 1) is None


def test_the_holder_is_read_from_the_lease() -> None:
    assert holder_of({"spec": {"holderIdentity": "boot.nonce"}}) == "boot.nonce"
    assert holder_of({"spec": {}}) == holder_of({}) == ""


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
