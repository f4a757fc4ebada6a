"""What follows when something is away: a table of situations, and what holds in all of them."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from exclave.api.group import FailurePolicy
from exclave.data_path.assessment import (
    FORGET_AFTER,
    HOLDS,
    NEVER_PRESENT,
    Assessment,
    DataPathFacts,
    DataPathFault,
    DataPathHistory,
    FlapDamper,
    adopted_history,
    assess,
    failed_at,
    lost_at,
)

AFTER = 30.0
DEFAULT = FailurePolicy(AFTER)
SHUT = FailurePolicy(AFTER, "closed", "closed")
AJAR = FailurePolicy(AFTER, "open", "open")

WHOLE = DataPathFacts(True, True, True, True)
NO_PROXY = DataPathFacts(True, False, True, True)
ENDED = DataPathFacts(False, True, True, True)
NO_RULES = DataPathFacts(True, True, False, True)
ALONE = DataPathFacts(True, True, True, False)
BACK = DataPathFacts(True, True, True, True, has_destinations=False)
NEW = DataPathFacts(True, True, True, False, has_destinations=False)

Timeline = list[tuple[float, DataPathFacts]]
GONE: Timeline = [(0, WHOLE), (100, NO_PROXY)]
FAILED: Timeline = [*GONE, (130, NO_PROXY)]
FLAPPING: Timeline = [(0, WHOLE), (100, NO_PROXY), (101, WHOLE), (110, NO_PROXY), (111, WHOLE)]
AWAY: Timeline = [(0, WHOLE), (100, ALONE)]
LONG_AWAY: Timeline = [*AWAY, (130, ALONE)]
OPENED: Timeline = [(0, WHOLE), (100, NEW), (130, NEW)]

SERVES_KNOWN = "destinations that the proxy used within the last hour work, others in the cluster wait"

Row = tuple[Timeline, FailurePolicy, tuple[bool, bool, bool, bool], str, str]

ROWS: dict[str, Row] = {
    "the data path was never whole": (
        [(0, DataPathFacts(False, False, True, None))], DEFAULT, (False, False, False, False), "meshed", ""),
    "whole": ([(0, WHOLE)], DEFAULT, (False, False, False, True), "meshed", ""),
    "the proxy is away": (
        GONE, DEFAULT, (False, False, False, False), "meshed",
        "no proxy is ready; tolerated for 30s; new outbound connections wait, inbound ones fail"),
    "it is away for too long: outbound opens, inbound stays closed": (
        FAILED, DEFAULT, (True, False, True, False), "outbound-open",
        "no proxy is ready; outbound traffic bypasses the proxy, inbound fails"),
    "the group closes both directions": (
        FAILED, SHUT, (False, False, True, False), "down",
        "no proxy is ready; outbound traffic fails, inbound fails"),
    "the group opens both": (
        FAILED, AJAR, (True, True, True, False), "outbound-open",
        "no proxy is ready; outbound traffic bypasses the proxy, inbound bypasses it"),
    "it comes back: as if nothing had been": (
        [*FAILED, (131, WHOLE)], DEFAULT, (False, False, False, True), "meshed", ""),
    "the certificate has ended for too long": (
        [(0, WHOLE), (100, ENDED), (130, ENDED)], DEFAULT, (True, False, True, False), "outbound-open",
        "there is no valid certificate; outbound traffic bypasses the proxy, inbound fails"),
    "a certificate that has ended explains a proxy that is not ready": (
        [(0, WHOLE), (100, DataPathFacts(False, False, True, True))], DEFAULT, (False, False, False, False), "meshed",
        "there is no valid certificate; tolerated for 30s; new connections fail"),
    "the kernel has refused the rules for too long": (
        [(0, WHOLE), (100, NO_RULES), (130, NO_RULES)], DEFAULT, (True, False, True, False), "outbound-open",
        "the kernel does not take the rules; outbound traffic bypasses the proxy, inbound fails"),
    "one loss follows another": (
        [*GONE, (120, ENDED), (130, ENDED)], DEFAULT, (True, False, True, False), "outbound-open",
        "there is no valid certificate; outbound traffic bypasses the proxy, inbound fails"),
    "it came and went: it is there, and does not count yet": (
        FLAPPING, DEFAULT, (False, False, False, False), "meshed",
        "the data path comes and goes; lost 2 times, so it counts again after 5s without a loss"),
    "it came and went, and was open: it stays open until it counts again": (
        [*FLAPPING, (112, NO_PROXY), (141, NO_PROXY), (142, WHOLE)], DEFAULT, (True, False, True, False),
        "outbound-open",
        "the data path comes and goes; lost 3 times, so it counts again after 10s without a loss; "
        "outbound traffic bypasses the proxy, inbound fails"),
    "Linkerd is away: nothing changes yet": (
        AWAY, DEFAULT, (False, False, False, True), "meshed",
        f"Linkerd's controllers do not answer the proxy; tolerated for 30s; {SERVES_KNOWN}"),
    "Linkerd is away for long: the proxy still serves the destinations that it has": (
        LONG_AWAY, DEFAULT, (False, False, False, True), "meshed",
        f"Linkerd's controllers do not answer the proxy; {SERVES_KNOWN}"),
    "Linkerd is away for long, and the proxy never had a destination: outbound opens, and pods may still come": (
        OPENED, DEFAULT, (True, False, False, True), "outbound-open",
        "Linkerd's controllers do not answer the proxy; outbound traffic bypasses the proxy"),
    "Linkerd is away, and the group closes outbound": (
        OPENED, SHUT, (False, False, False, True), "meshed",
        f"Linkerd's controllers do not answer the proxy; {SERVES_KNOWN}"),
    "a group that opens inbound does not do so for Linkerd: policies are there": (
        OPENED, AJAR, (True, False, False, True), "outbound-open",
        "Linkerd's controllers do not answer the proxy; outbound traffic bypasses the proxy"),
    "Linkerd is back": ([*OPENED, (131, WHOLE)], DEFAULT, (False, False, False, True), "meshed", ""),
    "Linkerd comes and goes, and was away for too long: outbound stays open until it has held": (
        [*AWAY, (105, WHOLE), (106, NEW), (140, NEW), (141, BACK)], DEFAULT, (True, False, False, True),
        "outbound-open",
        "Linkerd's controllers do not answer the proxy; lost 2 times, so it counts again after 5s without a loss; "
        "outbound traffic bypasses the proxy"),
    "Linkerd is away from the start, so the proxy has no destination": (
        [(0, NEW)], DEFAULT, (True, False, False, True), "outbound-open",
        "Linkerd's controllers do not answer the proxy; outbound traffic bypasses the proxy"),
    "both are away: the worse one is reported": (
        [*OPENED, (131, DataPathFacts(True, False, True, False, has_destinations=False))], DEFAULT,
        (True, False, False, False),
        "outbound-open",
        "no proxy is ready; tolerated for 30s; outbound traffic bypasses the proxy"),
}  # fmt: skip


BEFORE = DataPathHistory()


def history_of(timeline: Timeline, history: DataPathHistory = BEFORE, after: float = AFTER) -> DataPathHistory:
    for now, facts in timeline:
        history = history.observe(facts, now, after)
    return history


@pytest.mark.parametrize(("timeline", "policy", "chosen", "data_path", "message"), ROWS.values(), ids=ROWS)
def test_facts_and_history_give_this_assessment(
    timeline: Timeline, policy: FailurePolicy, chosen: tuple[bool, bool, bool, bool], data_path: str, message: str
) -> None:
    found = assess(history_of(timeline), timeline[-1][1], policy)
    assert (found.outbound_open, found.inbound_open, found.is_failing, found.is_steady) == chosen
    assert found.data_path == data_path
    assert found.message == message
    assert (found.reason is None) == (message == "")


def test_an_adopted_proxy_fails_after_the_same_time_as_any_other() -> None:
    history = history_of([(0, NO_PROXY), (29, NO_PROXY)], adopted_history(0))
    assert not assess(history, NO_PROXY, DEFAULT).is_failing
    assert assess(history_of([(30, NO_PROXY)], history), NO_PROXY, DEFAULT).is_failing


def test_addresses_outside_the_cluster_bypass_a_proxy_that_cannot_look_them_up() -> None:
    def opened(timeline: Timeline, policy: FailurePolicy) -> tuple[bool, bool]:
        found = assess(history_of(timeline), timeline[-1][1], policy)
        return found.outside_open, found.outbound_open

    assert opened(AWAY, DEFAULT) == (False, False)
    assert opened(LONG_AWAY, DEFAULT) == (True, False)
    assert opened(LONG_AWAY, SHUT) == (False, False)
    assert opened(FAILED, DEFAULT) == (True, True)


def test_the_trace_is_one_line() -> None:
    found = assess(history_of(LONG_AWAY), ALONE, DEFAULT)
    assert found.trace == f"[outbound=outside-open inbound=closed failing=False why=control-plane-away] {found.message}"
    found = assess(history_of(OPENED), NEW, DEFAULT)
    assert found.trace == f"[outbound=open inbound=closed failing=False why=control-plane-away] {found.message}"
    assert Assessment().trace == "[outbound=closed inbound=closed failing=False why=none]"


def test_each_fault_has_its_own_word() -> None:
    assert len({reason.word for reason in DataPathFault}) == len(DataPathFault)


FACTS = some.builds(
    DataPathFacts,
    some.booleans(),
    some.booleans(),
    some.booleans(),
    some.sampled_from([True, False, None]),
    some.booleans(),
)
TIMELINE = some.lists(some.tuples(some.floats(0.1, 100), FACTS), min_size=1, max_size=30)


@given(TIMELINE, some.sampled_from([DEFAULT, SHUT, AJAR]))
def test_these_rules_hold_in_any_history(steps: list[tuple[float, DataPathFacts]], policy: FailurePolicy) -> None:
    history, now = DataPathHistory(), 0.0
    for pause, facts in steps:
        now += pause
        history = history.observe(facts, now, policy.after)
        found = assess(history, facts, policy)
        assert not found.outbound_open or (policy.outbound == "open" and found.outside_open)
        assert not found.outbound_open or found.is_failing or not facts.has_destinations
        assert not found.inbound_open or (policy.inbound == "open" and found.is_failing)
        assert not found.is_steady or facts.missing is None
        assert not (found.is_steady and found.is_failing)
        assert (found.data_path == "outbound-open") == found.outbound_open
        assert bool(found.message) == (found.reason is not None)
        if found.is_failing or found.outbound_open:
            assert found.reason is not None


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
def test_observations_give_these_damped_states(events: list[Event], expected: FlapDamper) -> None:
    assert play(events) == expected


def test_an_adopted_thing_counts_as_lost_until_it_is_observed() -> None:
    assert play([(5, False)], lost_at(0)).lost_since == 0
    assert play([(5, True)], lost_at(0)).is_steady
    assert play([(30, False)], lost_at(0)).has_failed


def test_a_thing_that_is_away_when_first_needed_has_failed_at_once() -> None:
    assert play([(1, False)], failed_at(0)).has_failed
    assert play([(1, False), (2, True)], failed_at(0)).is_steady


def test_held_until_is_the_end_of_the_hold() -> None:
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
    """The same, with observations in between."""
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
def test_after_any_history_five_minutes_without_a_loss_count_as_back(spans: list[tuple[float, float]]) -> None:
    events = list(changes(spans))
    end = events[-1][0] + HOLDS.most
    damper = play([*events, (end, True)])
    assert damper.is_steady and not damper.has_failed
    assert HOLDS.most < FORGET_AFTER  # else a hold could outlast what it is for


@given(SPANS, some.floats(0, 60))
def test_it_fails_only_while_away_and_after_the_tolerated_time(spans: list[tuple[float, float]], after: float) -> None:
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
def test_it_fails_at_most_thirty_times_in_an_hour(pattern: list[float], after: float) -> None:
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
