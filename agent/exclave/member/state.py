"""The state of a machine, and its standing in the cluster, computed from facts and observations. Pure.

An eviction or a requested ending comes first, whatever else holds; then the data path decides.
"""

from dataclasses import dataclass
from enum import Enum

from exclave.api.member import MemberView

APART = 30.0
"""Seconds between the two refusals that make an orphan: API servers cache, restart and disagree for a while."""

ASK_ORPHAN_EVERY = 300.0  # seconds between an orphan's requests


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
    """The facts that a state is computed from."""

    is_member: bool = False
    is_joining: bool = False
    standing: Standing = Standing.MEMBER
    is_leaving: bool = False
    is_stopping: bool = False
    is_failing: bool = False
    is_serving: bool = False
    is_ready: bool = False


def state_of(situation: Situation) -> State:
    """The state that follows from the facts."""
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

    An eviction is final. An orphan keeps its data path, and one accepted request makes it a member again.
    """

    def __init__(self) -> None:
        self.standing = Standing.MEMBER
        self._refused_since: float | None = None

    def observe_member(self, view: MemberView) -> None:
        """The own Member was read, which needs an accepted credential."""
        self.observe_accepted()
        if view.deleting:
            self.standing = Standing.EVICTED

    def observe_deleted(self) -> None:
        """The own Member was deleted."""
        self.standing = Standing.EVICTED

    def observe_refused(self, now: float) -> None:
        """The credential was refused (401): twice in a row, `APART` seconds apart, makes an orphan."""
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= APART and self.standing is Standing.MEMBER:
            self.standing = Standing.ORPHANED

    def observe_accepted(self) -> None:
        """The credential was accepted: any answer but 401."""
        self._refused_since = None
        if self.standing is Standing.ORPHANED:
            self.standing = Standing.MEMBER
