"""The instance's life as a table, read row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.proxy.states import TABLE, Effect, Event, State, transition

LIVES = {
    "it starts, is certified, has traffic, and is told to end": (
        [Event.STARTED, Event.CERTIFIED, Event.RULES_IN, Event.DISMISSED, Event.EXITED],
        ["starting", "standby", "active", "draining", "absent"],
    ),
    "a slow one is ended": (
        [Event.STARTED, Event.OVERDUE, Event.BOUND_REACHED, Event.EXITED],
        ["starting", "draining", "draining", "absent"],
    ),
    "an adopted one stands by until the rules are seen": (
        [Event.ADOPTED, Event.OVERDUE, Event.RULES_IN],
        ["standby", "standby", "active"],
    ),
    "rules that come back find it where it was": (
        [Event.ADOPTED, Event.RULES_IN, Event.RULES_OUT, Event.RULES_IN],
        ["standby", "active", "draining", "active"],
    ),
    "one beside which another serves drains, and rules may come back": (
        [Event.ADOPTED, Event.RETIRED, Event.RULES_OUT, Event.RULES_IN, Event.RETIRED],
        ["standby", "draining", "draining", "active", "active"],
    ),
    "rules that come back do not revive one that was told to end": (
        [Event.ADOPTED, Event.DISMISSED, Event.RULES_IN],
        ["standby", "draining", "draining"],
    ),
}


@pytest.mark.parametrize(("events", "words"), LIVES.values(), ids=LIVES)
def test_a_life(events: list[Event], words: list[str]) -> None:
    state, met = State.ABSENT, []
    for event in events:
        state = transition(state, event).state
        met.append(state.word)
    assert met == words


@given(st.sampled_from(State), st.sampled_from(Event))
def test_an_event_outside_the_table_changes_nothing(state: State, event: Event) -> None:
    step = transition(state, event)
    if (state, event) not in TABLE:
        assert (step.state, step.effects) == (state, ())


@given(st.sampled_from([state for state in State if state is not State.ABSENT]))
def test_whatever_it_was_one_that_exits_is_absent_and_nothing_is_sent(state: State) -> None:
    step = transition(state, Event.EXITED)
    assert (step.state, step.effects) == (State.ABSENT, ())


@given(st.lists(st.sampled_from(Event)))
def test_a_signal_is_sent_once_and_killing_comes_after_asking(events: list[Event]) -> None:
    state, sent = State.ABSENT, []
    for event in events:
        step = transition(state, event)
        sent += step.effects
        if step.state is State.ABSENT:
            assert sent[:1] in ([], [Effect.TERMINATE])
            assert sent.count(Effect.TERMINATE) <= 1
            sent = []
        state = step.state
