"""States follow from facts, standing from observations."""

import pytest

from exclave.api.member import MemberView
from exclave.member.state import MembershipTracker, Situation, Standing, State, state_of

READY = {"is_member": True, "is_serving": True, "is_ready": True}

CASES = {
    "without credential a machine is unjoined": ({}, State.UNJOINED),
    "a join under way is joining": ({"is_joining": True}, State.JOINING),
    "a leftover join record does not undo a membership": ({**READY, "is_joining": True}, State.READY),
    "a member without a data path is starting": ({"is_member": True}, State.STARTING),
    "a member that serves and is not ready is pending": ({"is_member": True, "is_serving": True}, State.PENDING),
    "a member that pods may reach is ready": (READY, State.READY),
    "a proxy that stays dead makes it failing": ({"is_member": True, "is_failing": True}, State.FAILING),
    "stopping outranks readiness": ({**READY, "is_stopping": True}, State.STOPPING),
    "leaving outranks failing": ({"is_member": True, "is_failing": True, "is_leaving": True}, State.LEAVING),
    "an eviction outranks everything": (
        {**READY, "standing": Standing.EVICTED, "is_leaving": True},
        State.EVICTED,
    ),
    "an orphan goes on serving, and its state is orphaned": ({**READY, "standing": Standing.ORPHANED}, State.ORPHANED),
    "an orphan whose certificate ended is failing": (
        {**READY, "standing": Standing.ORPHANED, "is_failing": True},
        State.FAILING,
    ),
}


@pytest.mark.parametrize(("facts", "expected"), CASES.values(), ids=CASES)
def test_state(facts: dict[str, object], expected: State) -> None:
    assert state_of(Situation(**facts)) is expected  # type: ignore[arg-type]


ALIVE, DELETING = MemberView("m"), MemberView("m", deleting=True)


def test_one_refusal_or_several_within_half_a_minute_mean_nothing() -> None:
    tracker = MembershipTracker()
    for now in (0, 10, 29.9):
        tracker.observe_refused(now)
        assert tracker.standing is Standing.MEMBER


def test_two_refusals_half_a_minute_apart_make_an_orphan() -> None:
    tracker = MembershipTracker()
    tracker.observe_refused(0)
    tracker.observe_refused(30)
    assert tracker.standing is Standing.ORPHANED


def test_a_success_in_between_starts_the_count_anew() -> None:
    tracker = MembershipTracker()
    tracker.observe_refused(0)
    tracker.observe_accepted()
    tracker.observe_refused(40)
    assert tracker.standing is Standing.MEMBER


def test_a_success_brings_an_orphan_back() -> None:
    tracker = MembershipTracker()
    tracker.observe_refused(0)
    tracker.observe_refused(30)
    tracker.observe_member(ALIVE)
    assert tracker.standing is Standing.MEMBER


def test_an_eviction_is_final() -> None:
    tracker = MembershipTracker()
    tracker.observe_member(DELETING)
    tracker.observe_accepted()
    tracker.observe_refused(0)
    tracker.observe_refused(300)
    assert tracker.standing is Standing.EVICTED


def test_an_orphan_whose_member_is_gone_was_evicted() -> None:
    tracker = MembershipTracker()
    tracker.observe_refused(0)
    tracker.observe_refused(30)
    tracker.observe_deleted()
    assert tracker.standing is Standing.EVICTED
