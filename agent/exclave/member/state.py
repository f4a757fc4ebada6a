"""The state of a machine, and its standing in the cluster, computed from facts and observations. Pure."""

from dataclasses import dataclass
from enum import Enum

from exclave.api.member import MemberView

APART = 30.0  # seconds between the two refusals that make an orphan: API servers cache, restart and differ for a while

ASK_ORPHAN_EVERY = 300.0  # seconds between an orphan's requests


class State(Enum):
    """The state, with the word that `exclave status` shows."""

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
    """The standing of this member in the cluster."""

    MEMBER = "member"
    EVICTED = "evicted"  # another client deleted the Member
    ORPHANED = "orphaned"  # the credential is refused, without an eviction


@dataclass(frozen=True)
class Situation:
    """The facts that determine a state."""

    is_member: bool = False
    is_joining: bool = False
    standing: Standing = Standing.MEMBER
    is_leaving: bool = False
    is_stopping: bool = False
    is_failing: bool = False
    is_serving: bool = False
    is_ready: bool = False


def state_of(situation: Situation) -> State:
    """The state for these facts. An eviction or a requested ending comes first, then the data path decides."""
    if not situation.is_member:
        return State.JOINING if situation.is_joining else State.UNJOINED
    if situation.standing is Standing.EVICTED:
        return State.EVICTED
    if situation.is_leaving:
        return State.LEAVING
    if situation.is_stopping:
        return State.STOPPING
    if situation.is_failing:
        return State.FAILING
    if situation.standing is Standing.ORPHANED:
        return State.ORPHANED
    if situation.is_ready:
        return State.READY
    return State.PENDING if situation.is_serving else State.STARTING


class MembershipTracker:
    """Follows the standing. Times are monotonic seconds.

    An eviction is final. An orphan's data path stays, and one accepted request makes it a member again.
    """

    def __init__(self) -> None:
        self.standing = Standing.MEMBER
        self._refused_since: float | None = None

    def observe_member(self, view: MemberView) -> None:
        """Record that the own Member was read, which needs an accepted credential."""
        self.observe_accepted()
        if view.deleting:
            self.standing = Standing.EVICTED

    def observe_deleted(self) -> None:
        """Record that the own Member was deleted."""
        self.standing = Standing.EVICTED

    def observe_refused(self, now: float) -> None:
        """Record a refused credential (401): twice in a row, `APART` seconds apart, makes an orphan."""
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= APART and self.standing is Standing.MEMBER:
            self.standing = Standing.ORPHANED

    def observe_accepted(self) -> None:
        """Record an accepted credential: any answer but 401."""
        self._refused_since = None
        if self.standing is Standing.ORPHANED:
            self.standing = Standing.MEMBER
