"""When traffic is moved, as rows: what holds, and what is done about it."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.states import Difference
from exclave.swap.plan import (
    MEMORY_PAUSE,
    PAUSES,
    BeginSwap,
    DrainOther,
    Idle,
    RejectRequest,
    SwapFacts,
    SwapReason,
    drain_time,
    is_swap_due,
    plan_swap,
)

NOW = 10_000.0
WHOLE = SwapFacts("a", is_ready=True)
NEWER = replace(WHOLE, outdated=frozenset({Difference.BINARY}))
HUGE = replace(WHOLE, outdated=frozenset({Difference.MEMORY}))

ROWS: dict[str, tuple[SwapFacts, object]] = {
    "nothing differs": (WHOLE, Idle()),
    "no instance yet": (SwapFacts(None, is_ready=False), Idle()),
    "no instance yet, with a request": (SwapFacts(None, is_ready=False, is_asked=True), RejectRequest()),
    "another binary": (NEWER, BeginSwap(SwapReason.BINARY)),
    "new settings": (replace(WHOLE, outdated=frozenset({Difference.ENVIRONMENT})), BeginSwap(SwapReason.ENVIRONMENT)),
    "all at once: settings come first": (
        replace(WHOLE, outdated=frozenset(Difference)),
        BeginSwap(SwapReason.ENVIRONMENT),
    ),
    "a request": (replace(WHOLE, is_asked=True), BeginSwap(SwapReason.ASKED)),
    "it is not ready: it is started anew anyway": (replace(NEWER, is_ready=False), Idle()),
    "it is not ready, with a request": (replace(WHOLE, is_ready=False, is_asked=True), RejectRequest()),
    "another one runs": (replace(WHOLE, others=("b",)), DrainOther("b")),
    "another one runs: its place has to be free first": (replace(NEWER, others=("b",)), DrainOther("b")),
    "another one runs, with a request": (replace(WHOLE, others=("b",), is_asked=True), DrainOther("b")),
    "another one runs, and the chosen one is not ready: it may be needed": (
        replace(WHOLE, is_ready=False, others=("b",)),
        Idle(),
    ),
    "the first pause after an abort": (
        replace(NEWER, aborts=1, aborted_at=NOW - 4.5),
        Idle(NOW - 4.5 + PAUSES.first),
    ),
    "the first pause is over": (replace(NEWER, aborts=1, aborted_at=NOW - 5.0), BeginSwap(SwapReason.BINARY)),
    "the third pause": (replace(NEWER, aborts=3, aborted_at=NOW - 44.0), Idle(NOW + 1.0)),
    "no pause is longer than ten minutes": (
        replace(NEWER, aborts=99, aborted_at=NOW - 600),
        BeginSwap(SwapReason.BINARY),
    ),
    "a request in a pause": (replace(NEWER, aborts=9, aborted_at=NOW, is_asked=True), BeginSwap(SwapReason.ASKED)),
    "too large": (HUGE, BeginSwap(SwapReason.MEMORY)),
    "too large again": (replace(HUGE, memory_at=NOW - 60), Idle(NOW - 60 + MEMORY_PAUSE)),
    "too large again, an hour later": (replace(HUGE, memory_at=NOW - MEMORY_PAUSE), BeginSwap(SwapReason.MEMORY)),
    "too large again, and another binary": (
        replace(HUGE, memory_at=NOW, outdated=frozenset({Difference.MEMORY, Difference.BINARY})),
        BeginSwap(SwapReason.BINARY),
    ),
}


@pytest.mark.parametrize(("facts", "action"), ROWS.values(), ids=ROWS)
def test_facts_give_this_action(facts: SwapFacts, action: object) -> None:
    assert plan_swap(facts, NOW) == action


FACTS = st.builds(
    SwapFacts,
    chosen=st.sampled_from([None, "a"]),
    is_ready=st.booleans(),
    others=st.sampled_from([(), ("b",)]),
    outdated=st.frozensets(st.sampled_from(Difference)),
    is_asked=st.booleans(),
    aborts=st.integers(0, 200),
    aborted_at=st.none() | st.floats(0, NOW),
    memory_at=st.none() | st.floats(0, NOW),
)


@given(FACTS, st.floats(0, 1e6))
def test_a_swap_is_due_if_it_would_begin_were_its_slot_free(facts: SwapFacts, now: float) -> None:
    alone = replace(facts, chosen="a", is_ready=True, others=())
    assert is_swap_due(facts, now) == isinstance(plan_swap(alone, now), BeginSwap)


def test_a_replaced_instance_may_serve_for_less_time_if_a_swap_waits_for_its_slot() -> None:
    assert drain_time(600.0, 30.0, is_due=False) == 600.0
    assert drain_time(600.0, 30.0, is_due=True) == 30.0
    assert drain_time(6.0, 30.0, is_due=True) == 6.0


@given(FACTS)
def test_a_swap_begins_only_beside_one_that_is_ready_and_never_beside_two(facts: SwapFacts) -> None:
    if isinstance(plan_swap(facts, NOW), BeginSwap):
        assert facts.is_ready
        assert facts.chosen is not None
        assert facts.others == ()


@given(FACTS)
def test_a_request_is_always_served_or_rejected(facts: SwapFacts) -> None:
    if facts.is_asked:
        assert not isinstance(plan_swap(facts, NOW), Idle)


@given(FACTS)
def test_a_wait_that_ends_is_followed_by_a_swap(facts: SwapFacts) -> None:
    action = plan_swap(facts, NOW)
    if isinstance(action, Idle) and action.until != inf:
        assert action.until > NOW
        assert isinstance(plan_swap(facts, action.until), BeginSwap)
