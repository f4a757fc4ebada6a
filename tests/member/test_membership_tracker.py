"""Evicted, orphaned or a member: from what is seen."""

from exclave.api.member import MemberView
from exclave.member.membership_tracker import MembershipTracker
from exclave.member.state import Standing

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
