"""When traffic is moved, as rows: what holds, and what is done about it."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.differences import Difference
from exclave.swap.plan import MEMORY_PAUSE, PAUSES, Begin, Drain, Facts, Reason, Refuse, Wait, decide

NOW = 10_000.0
WHOLE = Facts("a", is_ready=True)
NEWER = replace(WHOLE, outdated=frozenset({Difference.PROGRAM}))
HUGE = replace(WHOLE, outdated=frozenset({Difference.MEMORY}))

ROWS: dict[str, tuple[Facts, object]] = {
    "nothing differs": (WHOLE, Wait()),
    "no instance yet": (Facts(None, is_ready=False), Wait()),
    "no instance yet, and somebody asks": (Facts(None, is_ready=False, is_asked=True), Refuse()),
    "another binary": (NEWER, Begin(Reason.PROGRAM)),
    "new settings": (replace(WHOLE, outdated=frozenset({Difference.ENVIRONMENT})), Begin(Reason.ENVIRONMENT)),
    "all at once: settings are told": (replace(WHOLE, outdated=frozenset(Difference)), Begin(Reason.ENVIRONMENT)),
    "somebody asks": (replace(WHOLE, is_asked=True), Begin(Reason.ASKED)),
    "it is not ready: it is started anew anyway": (replace(NEWER, is_ready=False), Wait()),
    "it is not ready, and somebody asks": (replace(WHOLE, is_ready=False, is_asked=True), Refuse()),
    "another one runs": (replace(WHOLE, others=("b",)), Drain("b")),
    "another one runs: its place has to be free first": (replace(NEWER, others=("b",)), Drain("b")),
    "another one runs, and somebody asks": (replace(WHOLE, others=("b",), is_asked=True), Drain("b")),
    "another one runs, and the chosen one is not ready: it may be needed": (
        replace(WHOLE, is_ready=False, others=("b",)),
        Wait(),
    ),
    "the first pause after an abort": (
        replace(NEWER, aborts=1, aborted_at=NOW - 4.5),
        Wait(NOW - 4.5 + PAUSES.first),
    ),
    "the first pause is over": (replace(NEWER, aborts=1, aborted_at=NOW - 5.0), Begin(Reason.PROGRAM)),
    "the third pause": (replace(NEWER, aborts=3, aborted_at=NOW - 44.0), Wait(NOW + 1.0)),
    "no pause is longer than ten minutes": (replace(NEWER, aborts=99, aborted_at=NOW - 600), Begin(Reason.PROGRAM)),
    "somebody asks in a pause": (replace(NEWER, aborts=9, aborted_at=NOW, is_asked=True), Begin(Reason.ASKED)),
    "too large": (HUGE, Begin(Reason.MEMORY)),
    "too large again": (replace(HUGE, memory_at=NOW - 60), Wait(NOW - 60 + MEMORY_PAUSE)),
    "too large again, an hour later": (replace(HUGE, memory_at=NOW - MEMORY_PAUSE), Begin(Reason.MEMORY)),
    "too large again, and another binary": (
        replace(HUGE, memory_at=NOW, outdated=frozenset({Difference.MEMORY, Difference.PROGRAM})),
        Begin(Reason.PROGRAM),
    ),
}


@pytest.mark.parametrize(("facts", "action"), ROWS.values(), ids=ROWS)
def test_what_is_done(facts: Facts, action: object) -> None:
    assert decide(facts, NOW) == action


FACTS = st.builds(
    Facts,
    chosen=st.sampled_from([None, "a"]),
    is_ready=st.booleans(),
    others=st.sampled_from([(), ("b",)]),
    outdated=st.frozensets(st.sampled_from(Difference)),
    is_asked=st.booleans(),
    aborts=st.integers(0, 200),
    aborted_at=st.none() | st.floats(0, NOW),
    memory_at=st.none() | st.floats(0, NOW),
)


@given(FACTS)
def test_a_swap_begins_only_beside_one_that_is_ready_and_never_beside_two(facts: Facts) -> None:
    if isinstance(decide(facts, NOW), Begin):
        assert facts.is_ready
        assert facts.chosen is not None
        assert facts.others == ()


@given(FACTS)
def test_who_asks_is_never_left_waiting_for_nothing(facts: Facts) -> None:
    if facts.is_asked:
        assert not isinstance(decide(facts, NOW), Wait)


@given(FACTS)
def test_a_wait_that_ends_is_followed_by_a_swap(facts: Facts) -> None:
    action = decide(facts, NOW)
    if isinstance(action, Wait) and action.until != inf:
        assert action.until > NOW
        assert isinstance(decide(facts, action.until), Begin)
