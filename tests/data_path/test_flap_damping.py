"""What comes and goes: when it is lost, when it has failed, when it counts as back; tables first, then any history."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from exclave.data_path.flap_damping import FORGOTTEN, HOLDS, NEVER, Course, failed_at, lost_at

AFTER = 30.0

Event = tuple[float, bool]
"""At what time, and whether it is there from then on."""


def play(events: Iterable[Event], course: Course = NEVER, after: float = AFTER) -> Course:
    for now, is_there in events:
        course = course.see(is_there, now, after)
    return course


HISTORIES: dict[str, tuple[list[Event], Course]] = {
    "what was never there is not lost": ([(0, False), (99, False)], NEVER),
    "what is there is steady": ([(0, True)], Course(there_since=0)),
    "a loss begins": ([(0, True), (50, False)], Course(1, None, 50)),
    "it lasts, and has not failed yet": ([(0, True), (50, False), (79.9, False)], Course(1, None, 50)),
    "it has lasted as long as it may": ([(0, True), (50, False), (80, False)], Course(1, None, 50, True)),
    "the first time it is back at once": ([(0, True), (50, False), (80, False), (81, True)], Course(1, 81)),
    "the second time it must stay for five seconds": (
        [(0, True), (50, False), (51, True), (60, False), (61, True), (65.9, True)],
        Course(2, 61, 60),
    ),
    "and then it is back": (
        [(0, True), (50, False), (51, True), (60, False), (61, True), (66, True)],
        Course(2, 61),
    ),
    "what goes again before that has been lost since the first": (
        [(0, True), (50, False), (51, True), (60, False), (61, True), (62, False)],
        Course(3, None, 60),
    ),
    "so that coming and going adds up to a failure": (
        [(0, True), (50, False), (51, True), *((60 + 3 * n, n % 2 == 1) for n in range(11))],
        Course(7, None, 60, True),
    ),
    "which being there for a moment does not end": (
        [(0, True), (50, False), (51, True), *((60 + 3 * n, n % 2 == 1) for n in range(12))],
        Course(7, 93, 60, True),
    ),
    "ten minutes without a loss make the earlier ones forgotten": (
        [(0, True), (50, False), (51, True), (60, False), (65, True), (70, True), (665, False)],
        Course(1, None, 665),
    ),
}


@pytest.mark.parametrize(("events", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_a_history(events: list[Event], expected: Course) -> None:
    assert play(events) == expected


def test_what_an_earlier_agent_left_is_lost_until_it_is_seen() -> None:
    assert play([(5, False)], lost_at(0)).lost_since == 0
    assert play([(5, True)], lost_at(0)).is_steady
    assert play([(30, False)], lost_at(0)).has_failed


def test_what_is_away_when_it_is_first_needed_has_failed_until_it_comes() -> None:
    assert play([(1, False)], failed_at(0)).has_failed
    assert play([(1, False), (2, True)], failed_at(0)).is_steady


def test_it_says_until_when_it_must_stay() -> None:
    course = play([(0, True), (50, False), (51, True), (60, False), (61, True)])
    assert (course.hold, course.held_until) == (5.0, 66.0)
    assert not course.is_steady


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
    for now, is_there in events:
        if before is not None:
            at = before[0] + every
            while at < now:
                yield at, before[1]
                at += every
        yield now, is_there
        before = now, is_there


@given(SPANS)
def test_whatever_happened_five_minutes_without_a_loss_make_it_count_as_back(spans: list[tuple[float, float]]) -> None:
    events = list(changes(spans))
    end = events[-1][0] + HOLDS.most
    course = play([*events, (end, True)])
    assert course.is_steady and not course.has_failed
    assert HOLDS.most < FORGOTTEN  # else a hold could outlast what it is for


@given(SPANS, some.floats(0, 60))
def test_it_fails_only_when_it_is_away_and_was_lost_for_as_long_as_it_may(
    spans: list[tuple[float, float]], after: float
) -> None:
    course = NEVER
    for now, is_there in ticking(changes(spans), 7.0):
        before, course = course, course.see(is_there, now, after)
        if course.has_failed and not before.has_failed:
            assert not is_there
            assert course.lost_since is not None and now - course.lost_since >= after


@given(SPANS)
def test_a_first_loss_that_is_short_enough_leaves_nothing_behind(spans: list[tuple[float, float]]) -> None:
    start = FORGOTTEN + sum(lost + there + 1 for lost, there in spans)
    course = play([*changes(spans), (start + HOLDS.most, True), (start + HOLDS.most + FORGOTTEN, False)])
    course = course.see(True, start + HOLDS.most + FORGOTTEN + AFTER - 1, AFTER)
    assert course.is_steady and course.losses == 1


@settings(max_examples=40)
@given(some.lists(some.floats(0.01, 20), min_size=1, max_size=6), some.sampled_from([0.0, 1.0, 30.0]))
def test_in_an_hour_it_fails_thirty_times_at_most_however_it_comes_and_goes(pattern: list[float], after: float) -> None:
    """Also if it goes as soon as it counts as back, which is the worst that it can do."""
    course, now, failures = NEVER.see(True, 0.0, after), 0.0, 0
    while now < 3600:
        now += 0.01
        for at in (now, now + after):
            before, course = course, course.see(False, at, after)
            failures += course.has_failed and not before.has_failed
        now += after + pattern[failures % len(pattern)]
        course = course.see(True, now, after)
        now = now if course.held_until is None else course.held_until
        course = course.see(True, now, after)
        assert course.is_steady
    assert failures <= 30
