"""Which gaps in the rules cost readiness."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.listing.rules import REPAIRING, REPLACING, WITHIN, RuleGaps, RulesFacts, can_rely_on_rules

STAND = RulesFacts(in_place=True, serving=True, gone=False, wanted=True, refused=False)
REPLACED = replace(STAND, in_place=False)
FLUSHED = replace(STAND, in_place=False, serving=False, gone=True)
WRONG = replace(STAND, in_place=False, serving=False)

Seen = list[tuple[float, RulesFacts]]

CASES: dict[str, tuple[Seen, bool]] = {
    "rules that stand": ([(0, STAND)], True),
    "rules that never stood": ([(0, FLUSHED), (0.01, FLUSHED)], False),
    "rules that point to a proxy that cannot serve": ([(0, replace(STAND, serving=False))], False),
    "inbound traffic passes by": ([(0, STAND), (1, replace(STAND, wanted=False))], False),
    "the kernel refuses the repair": ([(0, STAND), (1, replace(FLUSHED, refused=True))], False),
    "flushed a moment ago": ([(0, STAND), (60, FLUSHED), (60.02, FLUSHED)], True),
    "flushed, and back": ([(0, STAND), (60, FLUSHED), (60.02, STAND)], True),
    "flushed, and not back": ([(0, STAND), (60, FLUSHED), (60.1 + REPAIRING, FLUSHED)], False),
    "flushed each second, and back each time within a hundredth": (
        [one for at in range(30) for one in ((at, STAND), (at + 0.5, FLUSHED), (at + 0.51, STAND))] + [(30, FLUSHED)],
        True,
    ),
    "undone as soon as they are repaired, once a second": (
        [one for at in range(5) for one in ((at, STAND), (at + 0.01, FLUSHED))] + [(5, FLUSHED)],
        False,
    ),
    "a fight that is over is forgotten": (
        [one for at in range(5) for one in ((at, STAND), (at + 0.01, FLUSHED))]
        + [(5, STAND), (5.1 + WITHIN, STAND), (30, FLUSHED)],
        True,
    ),
    "replaced, while those that stood stand": ([(0, STAND), (9, REPLACED), (9 + REPLACING, REPLACED)], True),
    "replaced, and it does not come to an end": ([(0, STAND), (9, REPLACED), (9.1 + REPLACING, REPLACED)], False),
    "changed by others to point elsewhere": ([(0, STAND), (9, WRONG)], False),
}


@pytest.mark.parametrize(("seen", "expected"), CASES.values(), ids=CASES)
def test_whether_pods_may_count_on_them(seen: Seen, expected: bool) -> None:
    gaps = RuleGaps()
    for now, facts in seen:
        gaps = gaps.observe(facts.in_place, now)
    assert can_rely_on_rules(facts, gaps, now) is expected


@given(some.lists(some.tuples(some.floats(0, 5), some.booleans()), max_size=50))
def test_what_is_remembered_of_gaps_is_what_the_last_seconds_held(steps: list[tuple[float, bool]]) -> None:
    now, gaps, looks = 0.0, RuleGaps(), []
    for pause, in_place in steps:
        now += pause
        gaps = gaps.observe(in_place, now)
        looks.append((now, in_place))
    # A moment belongs to the gap if the last look before it found no rules, and some look before that found some.
    missing_seconds, first = 0.0, next((index for index, (_, there) in enumerate(looks) if there), len(looks))
    for (at, there), (until, _) in zip(looks[first:], [*looks[first + 1 :], (now, True)], strict=False):
        missing_seconds += 0.0 if there else max(0.0, until - max(at, now - WITHIN))
    assert gaps.missing_seconds(now) == pytest.approx(missing_seconds)
