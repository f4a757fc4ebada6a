"""What follows when something is away: a table of situations, and what holds in all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.api.group import FailurePolicy
from exclave.data_path.assessment import (
    Assessment,
    DataPathFacts,
    DataPathFault,
    DataPathHistory,
    adopted_history,
    assess,
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

Timeline = list[tuple[float, DataPathFacts]]
GONE: Timeline = [(0, WHOLE), (100, NO_PROXY)]
FAILED: Timeline = [*GONE, (130, NO_PROXY)]
FLAPPING: Timeline = [(0, WHOLE), (100, NO_PROXY), (101, WHOLE), (110, NO_PROXY), (111, WHOLE)]
AWAY: Timeline = [(0, WHOLE), (100, ALONE)]
OPENED: Timeline = [*AWAY, (130, ALONE)]

Row = tuple[Timeline, FailurePolicy, tuple[bool, bool, bool, bool], str, str]

ROWS: dict[str, Row] = {
    "nothing was ever whole: nothing is judged": (
        [(0, DataPathFacts(False, False, True, None))], DEFAULT, (False, False, False, False), "meshed", ""),
    "whole": ([(0, WHOLE)], DEFAULT, (False, False, False, True), "meshed", ""),
    "the proxy is away": (
        GONE, DEFAULT, (False, False, False, False), "meshed",
        "no proxy is ready; tolerated for 30s; new connections are held"),
    "it is away for too long: outbound opens, inbound stays closed": (
        FAILED, DEFAULT, (True, False, True, False), "outbound-open",
        "no proxy is ready; outbound traffic bypasses the proxy, inbound is held"),
    "the group keeps both closed": (
        FAILED, SHUT, (False, False, True, False), "down",
        "no proxy is ready; outbound traffic is held, inbound is held"),
    "the group opens both": (
        FAILED, AJAR, (True, True, True, False), "outbound-open",
        "no proxy is ready; outbound traffic bypasses the proxy, inbound bypasses it"),
    "it comes back: as if nothing had been": (
        [*FAILED, (131, WHOLE)], DEFAULT, (False, False, False, True), "meshed", ""),
    "the certificate has ended for too long": (
        [(0, WHOLE), (100, ENDED), (130, ENDED)], DEFAULT, (True, False, True, False), "outbound-open",
        "there is no valid certificate; outbound traffic bypasses the proxy, inbound is held"),
    "a certificate that has ended explains a proxy that is not ready": (
        [(0, WHOLE), (100, DataPathFacts(False, False, True, True))], DEFAULT, (False, False, False, False), "meshed",
        "there is no valid certificate; tolerated for 30s; new connections are held"),
    "the kernel has not taken the rules for too long": (
        [(0, WHOLE), (100, NO_RULES), (130, NO_RULES)], DEFAULT, (True, False, True, False), "outbound-open",
        "the kernel does not take the rules; outbound traffic bypasses the proxy, inbound is held"),
    "one loss follows another": (
        [*GONE, (120, ENDED), (130, ENDED)], DEFAULT, (True, False, True, False), "outbound-open",
        "there is no valid certificate; outbound traffic bypasses the proxy, inbound is held"),
    "it came and went: it is there, and does not count yet": (
        FLAPPING, DEFAULT, (False, False, False, False), "meshed",
        "the data path comes and goes; lost 2 times, so it counts again after 5s without a loss"),
    "it came and went, and was open: it stays open until it counts again": (
        [*FLAPPING, (112, NO_PROXY), (141, NO_PROXY), (142, WHOLE)], DEFAULT, (True, False, True, False),
        "outbound-open",
        "the data path comes and goes; lost 3 times, so it counts again after 10s without a loss; "
        "outbound traffic bypasses the proxy, inbound is held"),
    "Linkerd is away: nothing changes yet": (
        AWAY, DEFAULT, (False, False, False, True), "meshed",
        "Linkerd's controllers do not answer the proxy; tolerated for 30s; "
        "connections to destinations that the proxy knows go on, others wait"),
    "Linkerd is away for too long: outbound opens, and pods may still come": (
        OPENED, DEFAULT, (True, False, False, True), "outbound-open",
        "Linkerd's controllers do not answer the proxy; outbound traffic bypasses the proxy"),
    "a group that keeps outbound closed goes on with whom it knows": (
        OPENED, SHUT, (False, False, False, True), "meshed",
        "Linkerd's controllers do not answer the proxy; "
        "connections to destinations that the proxy knows go on, others wait"),
    "a group that opens inbound does not do so for Linkerd: policies are there": (
        OPENED, AJAR, (True, False, False, True), "outbound-open",
        "Linkerd's controllers do not answer the proxy; outbound traffic bypasses the proxy"),
    "Linkerd is back": ([*OPENED, (131, WHOLE)], DEFAULT, (False, False, False, True), "meshed", ""),
    "Linkerd comes and goes, and was away for too long: outbound stays open until it has held": (
        [*AWAY, (105, WHOLE), (106, ALONE), (140, ALONE), (141, WHOLE)], DEFAULT, (True, False, False, True),
        "outbound-open",
        "Linkerd's controllers do not answer the proxy; lost 2 times, so it counts again after 5s without a loss; "
        "outbound traffic bypasses the proxy"),
    "Linkerd is away from the start: a proxy that knows nobody has nobody to go on with": (
        [(0, ALONE)], DEFAULT, (True, False, False, True), "outbound-open",
        "Linkerd's controllers do not answer the proxy; outbound traffic bypasses the proxy"),
    "both are away: the worse one is told": (
        [*OPENED, (131, DataPathFacts(True, False, True, False))], DEFAULT, (True, False, False, False),
        "outbound-open",
        "no proxy is ready; tolerated for 30s; outbound traffic bypasses the proxy"),
}  # fmt: skip


BEFORE = DataPathHistory()


def history_of(timeline: Timeline, history: DataPathHistory = BEFORE, after: float = AFTER) -> DataPathHistory:
    for now, facts in timeline:
        history = history.observe(facts, now, after)
    return history


@pytest.mark.parametrize(("timeline", "policy", "chosen", "data_path", "message"), ROWS.values(), ids=ROWS)
def test_a_situation(
    timeline: Timeline, policy: FailurePolicy, chosen: tuple[bool, bool, bool, bool], data_path: str, message: str
) -> None:
    found = assess(history_of(timeline), timeline[-1][1], policy)
    assert (found.outbound_open, found.inbound_open, found.is_failing, found.is_steady) == chosen
    assert found.data_path == data_path
    assert found.message == message
    assert (found.reason is None) == (message == "")


def test_a_proxy_that_an_earlier_agent_left_is_waited_for_no_longer_than_any_other() -> None:
    history = history_of([(0, NO_PROXY), (29, NO_PROXY)], adopted_history(0))
    assert not assess(history, NO_PROXY, DEFAULT).is_failing
    assert assess(history_of([(30, NO_PROXY)], history), NO_PROXY, DEFAULT).is_failing


def test_a_proxy_that_an_earlier_agent_left_may_know_somebody_while_linkerd_is_away() -> None:
    history = history_of([(0, ALONE), (29, ALONE)], adopted_history(0))
    assert not assess(history, ALONE, DEFAULT).outbound_open
    assert assess(history_of([(30, ALONE)], history), ALONE, DEFAULT).outbound_open


def test_the_trace_is_one_line() -> None:
    found = assess(history_of(OPENED), ALONE, DEFAULT)
    assert found.trace == f"[outbound=open inbound=closed failing=False why=control-plane-away] {found.message}"
    assert Assessment().trace == "[outbound=closed inbound=closed failing=False why=none]"


def test_reasons_have_words_of_their_own() -> None:
    assert len({reason.word for reason in DataPathFault}) == len(DataPathFault)


FACTS = some.builds(
    DataPathFacts, some.booleans(), some.booleans(), some.booleans(), some.sampled_from([True, False, None])
)
TIMELINE = some.lists(some.tuples(some.floats(0.1, 100), FACTS), min_size=1, max_size=30)


@given(TIMELINE, some.sampled_from([DEFAULT, SHUT, AJAR]))
def test_in_any_history(steps: list[tuple[float, DataPathFacts]], policy: FailurePolicy) -> None:
    history, now = DataPathHistory(), 0.0
    for pause, facts in steps:
        now += pause
        history = history.observe(facts, now, policy.after)
        found = assess(history, facts, policy)
        assert not found.outbound_open or policy.outbound == "open"
        assert not found.inbound_open or (policy.inbound == "open" and found.is_failing)
        assert not found.is_steady or facts.missing is None
        assert not (found.is_steady and found.is_failing)
        assert (found.data_path == "outbound-open") == found.outbound_open
        assert bool(found.message) == (found.reason is not None)
        if found.is_failing or found.outbound_open:
            assert found.reason is not None
