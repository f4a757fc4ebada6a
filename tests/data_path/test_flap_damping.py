"""What comes and goes: when it is lost, when it has failed, when it counts as back; tables first, then any history."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from exclave.data_path.flap_damping import FORGET_AFTER, HOLDS, NEVER_PRESENT, FlapDamper, failed_at, lost_at

AFTER = 30.0

Event = tuple[float, bool]
"""At what time, and whether it is there from then on."""


def play(events: Iterable[Event], damper: FlapDamper = NEVER_PRESENT, after: float = AFTER) -> FlapDamper:
    for now, is_available in events:
        damper = damper.observe(is_available, now, after)
    return damper


HISTORIES: dict[str, tuple[list[Event], FlapDamper]] = {
    "what was never there is not lost": ([(0, False), (99, False)], NEVER_PRESENT),
    "what is there is steady": ([(0, True)], FlapDamper(present_since=0)),
    "a loss begins": ([(0, True), (50, False)], FlapDamper(1, None, 50)),
    "it lasts, and has not failed yet": ([(0, True), (50, False), (79.9, False)], FlapDamper(1, None, 50)),
    "it has lasted as long as it may": ([(0, True), (50, False), (80, False)], FlapDamper(1, None, 50, True)),
    "the first time it is back at once": ([(0, True), (50, False), (80, False), (81, True)], FlapDamper(1, 81)),
    "the second time it must stay for five seconds": (
        [(0, True), (50, False), (51, True), (60, False), (61, True), (65.9, True)],
        FlapDamper(2, 61, 60),
    ),
    "and then it is back": (
        [(0, True), (50, False), (51, True), (60, False), (61, True), (66, True)],
        FlapDamper(2, 61),
    ),
    "what goes again before that has been lost since the first": (
        [(0, True), (50, False), (51, True), (60, False), (61, True), (62, False)],
        FlapDamper(3, None, 60),
    ),
    "so that coming and going adds up to a failure": (
        [(0, True), (50, False), (51, True), *((60 + 3 * n, n % 2 == 1) for n in range(11))],
        FlapDamper(7, None, 60, True),
    ),
    "which being there for a moment does not end": (
        [(0, True), (50, False), (51, True), *((60 + 3 * n, n % 2 == 1) for n in range(12))],
        FlapDamper(7, 93, 60, True),
    ),
    "ten minutes without a loss make the earlier ones forgotten": (
        [(0, True), (50, False), (51, True), (60, False), (65, True), (70, True), (665, False)],
        FlapDamper(1, None, 665),
    ),
}


@pytest.mark.parametrize(("events", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_a_history(events: list[Event], expected: FlapDamper) -> None:
    assert play(events) == expected


def test_what_an_earlier_agent_left_is_lost_until_it_is_seen() -> None:
    assert play([(5, False)], lost_at(0)).lost_since == 0
    assert play([(5, True)], lost_at(0)).is_steady
    assert play([(30, False)], lost_at(0)).has_failed


def test_what_is_away_when_it_is_first_needed_has_failed_until_it_comes() -> None:
    assert play([(1, False)], failed_at(0)).has_failed
    assert play([(1, False), (2, True)], failed_at(0)).is_steady


def test_it_says_until_when_it_must_stay() -> None:
    damper = play([(0, True), (50, False), (51, True), (60, False), (61, True)])
    assert (damper.hold, damper.held_until) == (5.0, 66.0)
    assert not damper.is_steady


# Any history.

SPANS = some.lists(some.tuples(some.floats(0.1, 400), some.floats(0.1, 700)), max_size=60)
"""Seconds lost, then there, over and over."""


def changes(spans: list[tuple[float, float]]) -> Iterator[Event]:
    now = 0.0
    yield now, True
    for lost, there in spans:
        now += 1.0
        yield now, False
        now += lost
        yield now, True
        now += there


def ticking(events: Iterable[Event], every: float = 1.0) -> Iterator[Event]:
    """The same, with a look now and then in between."""
    before: Event | None = None
    for now, is_available in events:
        if before is not None:
            at = before[0] + every
            while at < now:
                yield at, before[1]
                at += every
        yield now, is_available
        before = now, is_available


@given(SPANS)
def test_whatever_happened_five_minutes_without_a_loss_make_it_count_as_back(spans: list[tuple[float, float]]) -> None:
    events = list(changes(spans))
    end = events[-1][0] + HOLDS.most
    damper = play([*events, (end, True)])
    assert damper.is_steady and not damper.has_failed
    assert HOLDS.most < FORGET_AFTER  # else a hold could outlast what it is for


@given(SPANS, some.floats(0, 60))
def test_it_fails_only_when_it_is_away_and_was_lost_for_as_long_as_it_may(
    spans: list[tuple[float, float]], after: float
) -> None:
    damper = NEVER_PRESENT
    for now, is_available in ticking(changes(spans), 7.0):
        before, damper = damper, damper.observe(is_available, now, after)
        if damper.has_failed and not before.has_failed:
            assert not is_available
            assert damper.lost_since is not None and now - damper.lost_since >= after


@given(SPANS)
def test_a_first_loss_that_is_short_enough_leaves_nothing_behind(spans: list[tuple[float, float]]) -> None:
    start = FORGET_AFTER + sum(lost + there + 1 for lost, there in spans)
    damper = play([*changes(spans), (start + HOLDS.most, True), (start + HOLDS.most + FORGET_AFTER, False)])
    damper = damper.observe(True, start + HOLDS.most + FORGET_AFTER + AFTER - 1, AFTER)
    assert damper.is_steady and damper.losses == 1


@settings(max_examples=40)
@given(some.lists(some.floats(0.01, 20), min_size=1, max_size=6), some.sampled_from([0.0, 1.0, 30.0]))
def test_in_an_hour_it_fails_thirty_times_at_most_however_it_comes_and_goes(pattern: list[float], after: float) -> None:
    """Also if it goes as soon as it counts as back, which is the worst that it can do."""
    damper, now, failures = NEVER_PRESENT.observe(True, 0.0, after), 0.0, 0
    while now < 3600:
        now += 0.01
        for at in (now, now + after):
            before, damper = damper, damper.observe(False, at, after)
            failures += damper.has_failed and not before.has_failed
        now += after + pattern[failures % len(pattern)]
        damper = damper.observe(True, now, after)
        now = now if damper.held_until is None else damper.held_until
        damper = damper.observe(True, now, after)
        assert damper.is_steady
    assert failures <= 30
