"""The life of one proxy instance, as a table; and why a running one should be replaced. Pure.

    absent ──started──► starting ──certified──► standby ◄──rules in──► active ──rules out──► draining ──► absent
       └───adopted──────────────────────────────┘

An event that is not in the table for a state changes nothing, so every event may be repeated.
"""

from dataclasses import dataclass
from enum import Enum


class InstanceState(Enum):
    """The state of an instance; `word` is what people are shown."""

    ABSENT = "absent"
    STARTING = "starting"
    STANDBY = "standby"
    ACTIVE = "active"
    DRAINING = "draining"
    ENDING = "ending"

    @property
    def word(self) -> str:
        """The state's word in status and metrics, where an instance that ends is still draining."""
        return InstanceState.DRAINING.value if self is InstanceState.ENDING else self.value


class InstanceEvent(Enum):
    """What has happened to an instance."""

    STARTED = "started"  # a process was launched
    ADOPTED = "adopted"  # a process of an earlier agent was recognised
    CERTIFIED = "certified"  # it is ready and serves our certificate
    OVERDUE = "overdue"  # it was not certified in time
    RULES_IN = "rules in"  # the kernel's rules point to it
    RULES_OUT = "rules out"  # they do not point to it (any more)
    RETIRED = "retired"  # another instance serves in its place
    DISMISSED = "dismissed"  # the agent ends it
    BOUND_REACHED = "bound reached"  # it did not end in the time that it has for that
    EXITED = "exited"


class InstanceEffect(Enum):
    """What the caller does next."""

    TERMINATE = "send SIGTERM"
    KILL = "send SIGKILL"


@dataclass(frozen=True)
class Transition:
    """The next state and the effects on the way."""

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
    # A swap that is given up brings the rules back to the instance that drains.
    (InstanceState.DRAINING, InstanceEvent.RULES_IN): Transition(InstanceState.ACTIVE),
    (InstanceState.ENDING, InstanceEvent.BOUND_REACHED): Transition(InstanceState.ENDING, (InstanceEffect.KILL,)),
    **{(state, InstanceEvent.DISMISSED): _TO_ENDING for state in _RUNNING},
    **{(state, InstanceEvent.EXITED): _TO_ABSENT for state in (*_RUNNING, InstanceState.ENDING)},
}
"""Every event that changes a state."""


def transition(state: InstanceState, event: InstanceEvent) -> Transition:
    """The transition for an event; to the same state, without effects, if the table has none."""
    return TRANSITIONS.get((state, event), Transition(state))


class Difference(Enum):
    """Why a process should be replaced; the value is shown to people."""

    BINARY = "another binary"
    # Settings, trust anchors, ports and addresses are all environment, which a process reads once.
    ENVIRONMENT = "new settings"
    MEMORY = "its memory"


def differences(
    running: tuple[str, str | None],
    wanted: tuple[str | None, str | None],
    memory: int | None = None,
    limit: int = 0,
) -> frozenset[Difference]:
    """How a running proxy differs from the wanted one. What is unknown is no difference.

    Both tuples are the digests of environment and binary: the record of an older agent may not name the binary.
    `memory` and its `limit` are bytes; the memory of a process that has ended cannot be read.
    """
    found = set()
    if wanted[0] is not None and running[0] != wanted[0]:
        found.add(Difference.ENVIRONMENT)
    if None not in (running[1], wanted[1]) and running[1] != wanted[1]:
        found.add(Difference.BINARY)
    if memory is not None and memory > limit:
        found.add(Difference.MEMORY)
    return frozenset(found)
