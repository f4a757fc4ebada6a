"""What a machine is, computed from facts and never stored. Pure.

The states and their order are those of the contract: a machine that has been told something (to leave, to stop, that it
was evicted) is in that state whatever else holds; then comes what its data path makes of it.
"""

from dataclasses import dataclass
from enum import Enum

from exclave.ending import Ending


class State(Enum):
    """One word for what this machine is in its mesh."""

    UNJOINED = "unjoined"
    JOINING = "joining"
    STARTING = "starting"
    PENDING = "pending"
    READY = "ready"
    FAILING = "failing"
    LEAVING = "leaving"
    STOPPING = "stopping"
    EVICTED = "evicted"
    ORPHANED = "orphaned"


class Standing(Enum):
    """What the cluster thinks of this member, as far as it has said."""

    MEMBER = "member"
    EVICTED = "evicted"  # the Member is being deleted or gone, and not by us
    ORPHANED = "orphaned"  # the credential is not accepted, and nobody said why


@dataclass(frozen=True)
class Situation:
    """The facts that a state is computed from. `ending` is None until somebody has asked for one."""

    is_member: bool = False
    is_joining: bool = False
    standing: Standing = Standing.MEMBER
    ending: Ending | None = None
    is_failing: bool = False
    is_serving: bool = False
    is_ready: bool = False


def state_of(situation: Situation) -> State:
    """The state that follows from the facts."""
    if not situation.is_member:
        return State.JOINING if situation.is_joining else State.UNJOINED
    if situation.standing is Standing.EVICTED:
        return State.EVICTED
    if situation.ending is Ending.LEAVE:
        return State.LEAVING
    if situation.ending is Ending.STOP:
        return State.STOPPING
    if situation.is_failing:
        return State.FAILING
    if situation.standing is Standing.ORPHANED:
        return State.ORPHANED
    if situation.is_ready:
        return State.READY
    return State.PENDING if situation.is_serving else State.STARTING
