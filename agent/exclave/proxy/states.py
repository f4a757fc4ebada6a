"""The states of one proxy instance, as a table; and why a running one should be replaced. Pure.

absent ──started──► starting ──certified──► standby ◄──rules in──► active ──rules out──► draining ──► absent
   └───adopted──────────────────────────────┘
"""

from dataclasses import dataclass
from enum import Enum


class InstanceState(Enum):
    """The state of an instance; `word` is shown to people."""

    ABSENT = "absent"
    STARTING = "starting"
    STANDBY = "standby"
    ACTIVE = "active"
    DRAINING = "draining"
    ENDING = "ending"

    @property
    def word(self) -> str:
        """The state's word in status and metrics, where an ending instance is still draining."""
        return InstanceState.DRAINING.value if self is InstanceState.ENDING else self.value


class InstanceEvent(Enum):
    """Something that has happened to an instance."""

    STARTED = "started"  # a process was launched
    ADOPTED = "adopted"  # a process of an earlier agent was recognised
    CERTIFIED = "certified"  # it is ready and serves our certificate
    OVERDUE = "overdue"  # it was not certified in time
    RULES_IN = "rules in"  # the kernel's rules point to it
    RULES_OUT = "rules out"  # they do not point to it (any more)
    RETIRED = "retired"  # another instance serves in its place
    DISMISSED = "dismissed"  # the agent ends it
    BOUND_REACHED = "bound reached"  # it did not end within its time
    EXITED = "exited"


class InstanceEffect(Enum):
    """The caller's next step."""

    TERMINATE = "send SIGTERM"
    KILL = "send SIGKILL"


@dataclass(frozen=True)
class Transition:
    """The next state, and the effects of the change."""

    state: InstanceState
    effects: tuple[InstanceEffect, ...] = ()


_RUNNING = (InstanceState.STARTING, InstanceState.STANDBY, InstanceState.ACTIVE, InstanceState.DRAINING)
_TO_ENDING = Transition(InstanceState.ENDING, (InstanceEffect.TERMINATE,))
_TO_ABSENT = Transition(InstanceState.ABSENT)

TRANSITIONS: dict[tuple[InstanceState, InstanceEvent], Transition] = {
    (InstanceState.ABSENT, InstanceEvent.STARTED): Transition(InstanceState.STARTING),
    # An adopted instance has served before, so it is not ended for being slow: OVERDUE changes nothing in STANDBY.
    (InstanceState.ABSENT, InstanceEvent.ADOPTED): Transition(InstanceState.STANDBY),
    (InstanceState.STARTING, InstanceEvent.CERTIFIED): Transition(InstanceState.STANDBY),
    (InstanceState.STARTING, InstanceEvent.OVERDUE): _TO_ENDING,
    (InstanceState.STANDBY, InstanceEvent.RULES_IN): Transition(InstanceState.ACTIVE),
    (InstanceState.STANDBY, InstanceEvent.RETIRED): Transition(InstanceState.DRAINING),
    (InstanceState.ACTIVE, InstanceEvent.RULES_OUT): Transition(InstanceState.DRAINING),
    # An aborted swap points the rules to the draining instance again.
    (InstanceState.DRAINING, InstanceEvent.RULES_IN): Transition(InstanceState.ACTIVE),
    (InstanceState.ENDING, InstanceEvent.BOUND_REACHED): Transition(InstanceState.ENDING, (InstanceEffect.KILL,)),
    **{(state, InstanceEvent.DISMISSED): _TO_ENDING for state in _RUNNING},
    **{(state, InstanceEvent.EXITED): _TO_ABSENT for state in (*_RUNNING, InstanceState.ENDING)},
}
"""Every event that changes a state. Any other one changes nothing, so every event may be repeated."""


def transition(state: InstanceState, event: InstanceEvent) -> Transition:
    """The transition for an event; without an entry in the table, to the same state and without effects."""
    return TRANSITIONS.get((state, event), Transition(state))


class Difference(Enum):
    """The reason to replace a process; the value is shown to people."""

    BINARY = "another binary"
    # Settings, trust anchors, ports and addresses are all in the environment, which a process reads once.
    ENVIRONMENT = "new settings"
    MEMORY = "its memory"


def differences(
    running: tuple[str, str | None],
    wanted: tuple[str | None, str | None],
    memory: int | None = None,
    limit: int = 0,
) -> frozenset[Difference]:
    """The differences of a running proxy from the wanted one. An unknown value is no difference.

    Both tuples are digests of environment and binary (an older agent's record may lack the latter). `memory` and its
    `limit` are bytes; the memory of an ended process is unknown.
    """
    found = set()
    if wanted[0] is not None and running[0] != wanted[0]:
        found.add(Difference.ENVIRONMENT)
    if None not in (running[1], wanted[1]) and running[1] != wanted[1]:
        found.add(Difference.BINARY)
    if memory is not None and memory > limit:
        found.add(Difference.MEMORY)
    return frozenset(found)
