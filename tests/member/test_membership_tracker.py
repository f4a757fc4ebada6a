"""Evicted, orphaned or a member: from what is seen."""

from exclave.api.member import MemberView
from exclave.member.membership_tracker import StandingJudge
from exclave.member.state import Standing

ALIVE, DELETING = MemberView("m"), MemberView("m", deleting=True)


def test_one_refusal_or_several_within_half_a_minute_mean_nothing() -> None:
    judge = StandingJudge()
    for now in (0, 10, 29.9):
        judge.see_refused(now)
        assert judge.standing is Standing.MEMBER


def test_two_refusals_half_a_minute_apart_make_an_orphan() -> None:
    judge = StandingJudge()
    judge.see_refused(0)
    judge.see_refused(30)
    assert judge.standing is Standing.ORPHANED


def test_a_success_in_between_starts_the_count_anew() -> None:
    judge = StandingJudge()
    judge.see_refused(0)
    judge.see_accepted()
    judge.see_refused(40)
    assert judge.standing is Standing.MEMBER


def test_a_success_brings_an_orphan_back() -> None:
    judge = StandingJudge()
    judge.see_refused(0)
    judge.see_refused(30)
    judge.see_member(ALIVE)
    assert judge.standing is Standing.MEMBER


def test_an_eviction_is_final() -> None:
    judge = StandingJudge()
    judge.see_member(DELETING)
    judge.see_accepted()
    judge.see_refused(0)
    judge.see_refused(300)
    assert judge.standing is Standing.EVICTED


def test_an_orphan_whose_member_is_gone_was_evicted() -> None:
    judge = StandingJudge()
    judge.see_refused(0)
    judge.see_refused(30)
    judge.see_gone()
    assert judge.standing is Standing.EVICTED
