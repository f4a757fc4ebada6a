"""The life of one proxy instance as a table: event in, next state and effects out. Pure.

    absent ──started──► starting ──certified──► standby ◄──rules in──► active ──rules out──► draining ──► absent
       └───adopted──────────────────────────────┘

Rules: an event that says nothing new in a state changes nothing, so every event may be repeated; a process that exits
is absent, whatever it was. An adopted instance stands by until the rules are seen to point to it, and is never ended
for being slow: it served before we came. One that no rules point to, and beside which another serves, is retired and
drains. While it only serves old flows, rules may come back; once told to end it ends, by SIGKILL if it takes longer
than the bound.
"""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What an instance is. `word` is what people are shown."""

    ABSENT = "absent"
    STARTING = "starting"
    STANDBY = "standby"
    ACTIVE = "active"
    DRAINING = "draining"
    ENDING = "ending"

    @property
    def word(self) -> str:
        """The contract's word: who is ending is still draining."""
        return State.DRAINING.value if self is State.ENDING else self.value


class Event(Enum):
    """What has happened."""

    STARTED = "started"  # a process was launched
    ADOPTED = "adopted"  # a process of an earlier agent was recognised
    CERTIFIED = "certified"  # it says ready, and serves our certificate
    OVERDUE = "overdue"  # it was not certified in time
    RULES_IN = "rules in"  # the kernel's rules point to it
    RULES_OUT = "rules out"  # they do not, or no longer
    RETIRED = "retired"  # another serves in its place
    DISMISSED = "dismissed"  # we want it gone
    BOUND_REACHED = "bound reached"  # it has taken to end as long as it may
    EXITED = "exited"


class Effect(Enum):
    """What is to be done about it."""

    TERMINATE = "send SIGTERM"
    KILL = "send SIGKILL"


@dataclass(frozen=True)
class Transition:
    """The next state, and what to do."""

    state: State
    effects: tuple[Effect, ...] = ()


_ENDED = Transition(State.ENDING, (Effect.TERMINATE,))
_GONE = Transition(State.ABSENT)

TABLE: dict[tuple[State, Event], Transition] = {
    (State.ABSENT, Event.STARTED): Transition(State.STARTING),
    (State.ABSENT, Event.ADOPTED): Transition(State.STANDBY),
    (State.STARTING, Event.CERTIFIED): Transition(State.STANDBY),
    (State.STARTING, Event.OVERDUE): _ENDED,
    (State.STARTING, Event.DISMISSED): _ENDED,
    (State.STARTING, Event.EXITED): _GONE,
    (State.STANDBY, Event.RULES_IN): Transition(State.ACTIVE),
    (State.STANDBY, Event.RETIRED): Transition(State.DRAINING),
    (State.STANDBY, Event.DISMISSED): _ENDED,
    (State.STANDBY, Event.EXITED): _GONE,
    (State.ACTIVE, Event.RULES_OUT): Transition(State.DRAINING),
    (State.ACTIVE, Event.DISMISSED): _ENDED,
    (State.ACTIVE, Event.EXITED): _GONE,
    (State.DRAINING, Event.RULES_IN): Transition(State.ACTIVE),
    (State.DRAINING, Event.DISMISSED): _ENDED,
    (State.DRAINING, Event.EXITED): _GONE,
    (State.ENDING, Event.BOUND_REACHED): Transition(State.ENDING, (Effect.KILL,)),
    (State.ENDING, Event.EXITED): _GONE,
}
"""Everything that changes anything."""


def transition(state: State, event: Event) -> Transition:
    """What an event makes of a state; the same state without effects if it says nothing new there."""
    return TABLE.get((state, event), Transition(state))
