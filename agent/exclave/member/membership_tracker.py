"""What the cluster thinks of this member, from what is seen of it. Pure: observations and times in, standing out.

Rules: an eviction is told by the member's own object (being deleted, or gone after having been there) and is final.
A credential that is refused (401) twice, `APART` seconds apart and with no success between, makes an orphan: nothing is
torn down for it, and one success makes it a member again.
"""

from exclave.api.member import MemberView
from exclave.member.state import Standing

APART = 30.0
"""Seconds between two refusals that are believed: API servers cache, restart and disagree for a while."""

ASK_ORPHAN_EVERY = 300.0
"""Seconds between an orphan's tries."""


class StandingJudge:
    """Takes what is seen and says what it means. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._standing = Standing.MEMBER
        self._refused_since: float | None = None

    @property
    def standing(self) -> Standing:
        """What we are, as far as the cluster has said."""
        return self._standing

    def see_member(self, view: MemberView) -> None:
        """Our own Member was seen, which needs an accepted credential."""
        self.see_accepted()
        if view.deleting:
            self._standing = Standing.EVICTED

    def see_gone(self) -> None:
        """Our own Member is not there any more."""
        self._standing = Standing.EVICTED

    def see_refused(self, now: float) -> None:
        """Our credential was not accepted (401)."""
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= APART and self._standing is Standing.MEMBER:
            self._standing = Standing.ORPHANED

    def see_accepted(self) -> None:
        """Our credential was accepted: anything but 401 came back."""
        self._refused_since = None
        if self._standing is Standing.ORPHANED:
            self._standing = Standing.MEMBER
