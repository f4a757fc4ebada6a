"""Who is live, and the way back: tables, a property, and a whole undoing played through."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.names import DRAIN
from exclave.api.requests import Object
from exclave.controller.policy.reap import (
    DeleteAccount,
    DeleteLease,
    DeleteWorkload,
    EmptyPorts,
    LeaseObservation,
    MarkNotReady,
    RecheckAfter,
    ReleaseMember,
    ReleaseWorkload,
    Removal,
    is_ready,
    live_members,
    next_removal,
    observe,
    retire_workload,
)
from exclave.controller.policy.snapshot import MemberSnapshot

from ..snapshots import NOW, make_member, make_snapshot

INTERVAL = 10.0
KEYS = [("shop", f"web-k7q2x-{number}") for number in range(1, 7)]


def live(ages: dict[int, float | None], before: set[int], watching_for: float = 3600.0) -> set[int]:
    """Numbers of live members, from how long ago each Lease was seen to change; None: it was never renewed."""
    observations = {
        KEYS[number]: LeaseObservation(None if age is None else "t", NOW - (age or 0.0)) for number, age in ages.items()
    }
    were = [KEYS[number] for number in before]
    found = live_members(observations, were, interval=INTERVAL, watching_since=NOW - watching_for, now=NOW)
    return {KEYS.index(key) for key in found}


@pytest.mark.parametrize(
    ("ages", "before", "watching_for", "wanted"),
    [
        pytest.param({0: 5.0}, {0}, 3600.0, {0}, id="whose Lease changed is live"),
        pytest.param({0: 30.0}, {0}, 3600.0, {0}, id="three intervals are waited for"),
        pytest.param({0: 30.1}, {0}, 3600.0, set(), id="and no longer"),
        pytest.param({0: 0.0}, set(), 3600.0, {0}, id="who comes back is live at once"),
        pytest.param({0: None}, set(), 3600.0, set(), id="an empty Lease is no heartbeat"),
        pytest.param({0: 500.0}, {0}, 20.0, {0}, id="what could not be seen while the watch was away does not count"),
        pytest.param({}, {0}, 3600.0, set(), id="without a Lease nobody is live"),
        pytest.param({0: 99.0, 1: 99.0, 2: 5.0}, {0, 1, 2}, 3600.0, {2}, id="two of three are too few for a storm"),
        pytest.param(
            {0: 99.0, 1: 99.0, 2: 99.0},
            {0, 1, 2},
            3600.0,
            {0, 1, 2},
            id="three of three are a storm, nobody goes",
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
            id="more than half of the fleet is a storm",
        ),
        pytest.param(
            {0: 99.0, 1: 99.0, 2: 99.0, 3: 1.0}, {3}, 3600.0, {3}, id="who was dead before the storm stays so"
        ),
    ],
)
def test_live(ages: dict[int, float | None], before: set[int], watching_for: float, wanted: set[int]) -> None:
    assert live(ages, before, watching_for) == wanted


@given(st.dictionaries(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 100))), st.sets(st.integers(0, 5)))
def test_nobody_is_live_without_a_reason(ages: dict[int, float | None], before: set[int]) -> None:
    found = live(ages, before)
    fresh = {number for number, age in ages.items() if age is not None and age <= 30.0}
    lost = (before & set(ages)) - fresh
    assert fresh <= found <= fresh | lost
    assert found in (fresh, fresh | lost), "all who went stale together are withdrawn, or none"


def test_a_lease_is_dated_by_our_clock_and_only_if_it_changed() -> None:
    first = observe(None, "their clock says 1970", NOW)
    assert first == LeaseObservation("their clock says 1970", NOW)
    assert observe(first, "their clock says 1970", NOW + 9) is first
    assert observe(first, "later", NOW + 9) == LeaseObservation("later", NOW + 9, changed=True)


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def workload(ports: int = 1, ready: bool = True, deleting: bool = False, finalizer: bool = True) -> Object:
    found: Object = {"metadata": {}, "spec": {"ports": [{"port": 8080}] * ports}}
    if finalizer:
        found["metadata"]["finalizers"] = ["exclave.dev/ports"]
    if deleting:
        found["metadata"]["deletionTimestamp"] = "now"
    return {**found, "status": READY} if ready else found


def test_ready_is_read_from_the_condition() -> None:
    assert is_ready(workload())
    assert not is_ready(workload(ready=False))
    assert not is_ready({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})


@pytest.mark.parametrize(
    ("found", "emptied_for", "transition"),
    [
        pytest.param(
            workload(),
            None,
            MarkNotReady("Evicted", "the Member is being deleted"),
            id="first it gets no traffic",
        ),
        pytest.param(workload(ready=False), None, EmptyPorts(), id="then its ports are emptied"),
        pytest.param(workload(0, False), 0.0, RecheckAfter(DRAIN), id="then clients have time to hear of it"),
        pytest.param(workload(0, False), 4.0, RecheckAfter(DRAIN - 4), id="all the time"),
        pytest.param(workload(0, False), None, RecheckAfter(DRAIN), id="also if nobody knows since when"),
        pytest.param(workload(0, False), DRAIN, DeleteWorkload(), id="then it is deleted"),
        pytest.param(workload(0, False, True), DRAIN, ReleaseWorkload(), id="and let go"),
        pytest.param(workload(0, False, True, False), DRAIN, RecheckAfter(1.0), id="unless another holds it"),
        pytest.param(workload(1, True, True), None, EmptyPorts(), id="one that others delete is emptied first"),
    ],
)
def test_retiring(found: Object, emptied_for: float | None, transition: Removal) -> None:
    emptied_at = None if emptied_for is None else NOW - emptied_for
    assert retire_workload(make_snapshot(workload=found, emptied_at=emptied_at)) == transition


def executed(transition: Removal, snapshot: MemberSnapshot) -> MemberSnapshot:
    """The world after a step."""
    found: Any = snapshot.workload
    if isinstance(transition, DeleteAccount):
        return snapshot.replaced(account_deleted=True)
    if isinstance(transition, MarkNotReady):
        return snapshot.replaced(workload={**found, "status": {}})
    if isinstance(transition, EmptyPorts):
        return snapshot.replaced(workload={**found, "spec": {"ports": []}}, emptied_at=snapshot.now)
    if isinstance(transition, RecheckAfter):
        return snapshot.replaced(now=snapshot.now + transition.seconds)
    if isinstance(transition, DeleteWorkload):
        return snapshot.replaced(workload={**found, "metadata": {**found["metadata"], "deletionTimestamp": "now"}})
    if isinstance(transition, ReleaseWorkload):
        return snapshot.replaced(workload=None)
    return snapshot.replaced(has_lease=False)


def test_a_whole_undoing_walks_backwards_and_never_deletes_what_still_has_ports() -> None:
    snapshot = make_snapshot(make_member(deleting=True), workload=workload(), has_lease=True, has_account=True)
    transitions: list[Removal] = []
    while not transitions or transitions[-1] != ReleaseMember():
        transitions.append(next_removal(snapshot))
        snapshot = executed(transitions[-1], snapshot)
        assert len(transitions) < 20
    assert transitions == [
        DeleteAccount(),
        MarkNotReady("Evicted", "the Member is being deleted"),
        EmptyPorts(),
        RecheckAfter(10.0),
        DeleteWorkload(),
        ReleaseWorkload(),
        DeleteLease(),
        ReleaseMember(),
    ]


def test_of_a_member_that_never_got_far_only_the_member_is_left_to_release() -> None:
    snapshot = make_snapshot(make_member(deleting=True), account_deleted=True)
    assert next_removal(snapshot) == ReleaseMember()
