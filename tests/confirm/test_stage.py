"""How far rules have come, as values."""

import pytest

from exclave.confirm.stage import LONGEST_GRACE, Confirmation, Stage, begin, resume

NOT_BEGUN, BEGUN = False, True


@pytest.mark.parametrize(
    ("begun", "left", "expected"),
    [
        (NOT_BEGUN, None, Confirmation(Stage.WAITING, 60.0)),
        (NOT_BEGUN, 3.0, Confirmation(Stage.WAITING, 60.0)),
        (BEGUN, None, Confirmation(Stage.OVER, 60.0)),
        (BEGUN, 0.0, Confirmation(Stage.OVER, 60.0)),
        (BEGUN, 41.0, Confirmation(Stage.RUNNING, 60.0, 141.0)),
    ],
    ids=["told and not begun", "told anew", "the rules are gone", "the time is over", "the time runs"],
)
def test_what_an_earlier_agent_has_left(begun: bool, left: float | None, expected: Confirmation) -> None:
    assert resume(60.0, begun, left, now=100.0) == expected


@pytest.mark.parametrize(("seconds", "grace"), [(60.0, LONGEST_GRACE), (4.0, 4.0)])
def test_the_kernel_ends_the_rules_within_the_grace(seconds: float, grace: float) -> None:
    begun = begin(seconds, 100.0)
    assert (begun.ends, begun.kernel_end) == (100.0 + seconds, 100.0 + seconds + grace)


STAGES = {
    Stage.CONFIRMED: (None, False, ""),
    Stage.WAITING: (7.0, False, "the rules go back by themselves 60s after they were made, unless they are confirmed"),
    Stage.RUNNING: (7.0, False, "the rules go back by themselves 60s after they were made, unless they are confirmed"),
    Stage.WITHDRAWING: (7.0, True, "the rules were not confirmed within 60s, so nothing is captured"),
    Stage.OVER: (0.0, True, "the rules were not confirmed within 60s, so nothing is captured"),
}


@pytest.mark.parametrize("stage", Stage)
def test_what_a_stage_means(stage: Stage) -> None:
    found = Confirmation(stage, 60.0, 7.0)
    assert (found.armed_until, found.is_withdrawn, found.text) == STAGES[stage]
