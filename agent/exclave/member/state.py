"""The state of a machine, computed from facts and never stored. Pure.

An eviction or a requested ending comes first, whatever else holds; then the data path decides.
"""

from dataclasses import dataclass
from enum import Enum

from exclave.ending import Ending


class State(Enum):
    """The word that `exclave status` shows."""

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
    """Whether the cluster still accepts this member."""

    MEMBER = "member"
    EVICTED = "evicted"  # somebody else deleted the Member
    ORPHANED = "orphaned"  # the credential is refused, and nobody evicted us


@dataclass(frozen=True)
class Situation:
    """The facts that a state is computed from. `ending`: None until one is requested."""

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
