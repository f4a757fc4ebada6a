"""Whether the cluster still accepts this member. Pure: observations and times in, standing out."""

from exclave.api.member import MemberView
from exclave.member.state import Standing

APART = 30.0
"""Seconds between the two refusals that make an orphan: API servers cache, restart and disagree for a while."""

ASK_ORPHAN_EVERY = 300.0
"""Seconds between an orphan's requests."""


class MembershipTracker:
    """Follows the standing. Times are monotonic seconds.

    An eviction is final. An orphan keeps its data path, and one accepted request makes it a member again.
    """

    def __init__(self) -> None:
        self._standing = Standing.MEMBER
        self._refused_since: float | None = None

    @property
    def standing(self) -> Standing:
        """The newest standing."""
        return self._standing

    def observe_member(self, view: MemberView) -> None:
        """The own Member was read, which needs an accepted credential."""
        self.observe_accepted()
        if view.deleting:
            self._standing = Standing.EVICTED

    def observe_deleted(self) -> None:
        """The own Member was deleted."""
        self._standing = Standing.EVICTED

    def observe_refused(self, now: float) -> None:
        """The credential was refused (401): twice in a row, `APART` seconds apart, makes an orphan."""
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= APART and self._standing is Standing.MEMBER:
            self._standing = Standing.ORPHANED

    def observe_accepted(self) -> None:
        """The credential was accepted: any answer but 401."""
        self._refused_since = None
        if self._standing is Standing.ORPHANED:
            self._standing = Standing.MEMBER
