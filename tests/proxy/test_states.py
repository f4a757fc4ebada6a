"""The life of an instance, row by row, then any order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.states import (
    TRANSITIONS,
    Difference,
    InstanceEffect,
    InstanceEvent,
    InstanceState,
    differences,
    transition,
)

STARTED, ADOPTED, CERTIFIED, OVERDUE = (
    InstanceEvent.STARTED,
    InstanceEvent.ADOPTED,
    InstanceEvent.CERTIFIED,
    InstanceEvent.OVERDUE,
)
RULES_IN, RULES_OUT, RETIRED = InstanceEvent.RULES_IN, InstanceEvent.RULES_OUT, InstanceEvent.RETIRED
DISMISSED, BOUND_REACHED, EXITED = InstanceEvent.DISMISSED, InstanceEvent.BOUND_REACHED, InstanceEvent.EXITED

LIVES = {
    "it starts, is certified, has traffic, and is ended": (
        [STARTED, CERTIFIED, RULES_IN, DISMISSED, EXITED],
        ["starting", "standby", "active", "draining", "absent"],
    ),
    "an instance that is not certified in time is ended": (
        [STARTED, OVERDUE, BOUND_REACHED, EXITED],
        ["starting", "draining", "draining", "absent"],
    ),
    "an adopted instance is standby until rules point to it": (
        [ADOPTED, OVERDUE, RULES_IN],
        ["standby", "standby", "active"],
    ),
    "rules that come back make it active again": (
        [ADOPTED, RULES_IN, RULES_OUT, RULES_IN],
        ["standby", "active", "draining", "active"],
    ),
    "a retired instance drains, and rules that come back make it active": (
        [ADOPTED, RETIRED, RULES_OUT, RULES_IN, RETIRED],
        ["standby", "draining", "draining", "active", "active"],
    ),
    "rules that come back do not save an instance that is being ended": (
        [ADOPTED, DISMISSED, RULES_IN],
        ["standby", "draining", "draining"],
    ),
}


@pytest.mark.parametrize(("events", "words"), LIVES.values(), ids=LIVES)
def test_a_sequence_of_events_gives_these_states(events: list[InstanceEvent], words: list[str]) -> None:
    state, met = InstanceState.ABSENT, []
    for event in events:
        state = transition(state, event).state
        met.append(state.word)
    assert met == words


@given(st.sampled_from(InstanceState), st.sampled_from(InstanceEvent))
def test_an_event_outside_the_table_changes_nothing(state: InstanceState, event: InstanceEvent) -> None:
    found = transition(state, event)
    if (state, event) not in TRANSITIONS:
        assert (found.state, found.effects) == (state, ())


@given(st.sampled_from([state for state in InstanceState if state is not InstanceState.ABSENT]))
def test_an_instance_that_exits_is_absent_and_no_signal_is_sent(state: InstanceState) -> None:
    found = transition(state, EXITED)
    assert (found.state, found.effects) == (InstanceState.ABSENT, ())


@given(st.lists(st.sampled_from(InstanceEvent)))
def test_each_signal_is_sent_once_and_sigterm_comes_first(events: list[InstanceEvent]) -> None:
    state, sent = InstanceState.ABSENT, []
    for event in events:
        found = transition(state, event)
        sent += found.effects
        if found.state is InstanceState.ABSENT:
            assert sent[:1] in ([], [InstanceEffect.TERMINATE])
            assert sent.count(InstanceEffect.TERMINATE) <= 1
            sent = []
        state = found.state


ROWS: dict[str, tuple[tuple[object, ...], set[Difference]]] = {
    "the same": ((("e", "p"), ("e", "p")), set()),
    "other settings": ((("e", "p"), ("f", "p")), {Difference.ENVIRONMENT}),
    "another binary on disk": ((("e", "p"), ("e", "q")), {Difference.BINARY}),
    "both": ((("e", "p"), ("f", "q")), {Difference.ENVIRONMENT, Difference.BINARY}),
    "the record does not name the binary": ((("e", None), ("e", "q")), set()),
    "there is no binary on disk": ((("e", "p"), ("e", None)), set()),
    "this machine has no address": ((("e", "p"), (None, "p")), set()),
    "at its limit": ((("e", "p"), ("e", "p"), 100, 100), set()),
    "over its limit": ((("e", "p"), ("e", "p"), 101, 100), {Difference.MEMORY}),
    "its memory cannot be read": ((("e", "p"), ("e", "p"), None, 100), set()),
}


@pytest.mark.parametrize(("values", "found"), ROWS.values(), ids=ROWS)
def test_differences_are_found_and_unknown_values_are_none(values: tuple[object, ...], found: set[Difference]) -> None:
    assert differences(*values) == found  # type: ignore[arg-type]
