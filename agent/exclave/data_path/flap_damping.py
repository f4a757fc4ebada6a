"""How something has fared that comes and goes: whether it counts as lost, and whether it has failed. Pure.

Rules: what is lost for the first time counts as back at once. What is lost again soon must stay before it counts as
back, and twice as long each time, up to five minutes: until then it counts as lost since it was lost first, so that
coming and going adds up to being away. It has failed once it was lost for as long as it may be, and that is taken back
only when it counts as back. Ten minutes without a loss make earlier ones forgotten. So nothing that depends on this
changes more often than thirty times an hour, whatever happens. What was never there is not lost.
"""

from dataclasses import dataclass, replace

from exclave.kit.tasks.backoff import Backoff

HOLDS = Backoff(first=5.0, most=300.0, jitter=0.0)
"""Seconds to stay, from the second loss on."""

FORGET_AFTER = 600.0
"""Seconds without a loss after which none counts any more."""


@dataclass(frozen=True)
class FlapDamper:
    """All times are seconds of one clock. `losses` counts those that are not forgotten.

    `there_since` is None while it is away; `lost_since` None while it counts as there, or was never there.
    """

    losses: int = 0
    present_since: float | None = None
    lost_since: float | None = None
    has_failed: bool = False

    @property
    def is_steady(self) -> bool:
        """It is there, and counts as there."""
        return self.present_since is not None and self.lost_since is None

    @property
    def hold(self) -> float:
        """Seconds that it must stay before it counts as back."""
        return HOLDS.pause(self.losses - 2, 0.0) if self.losses >= 2 else 0.0

    @property
    def held_until(self) -> float | None:
        """When it will count as back if it stays; None if it is away, or counts as there."""
        if self.present_since is None or self.lost_since is None:
            return None
        return self.present_since + self.hold

    def observe(self, is_available: bool, now: float, after: float) -> "FlapDamper":
        """What has become of it by now; it may be lost for `after` seconds."""
        if is_available:
            return self._present(now)
        if self.present_since is None and self.lost_since is None:
            return self
        losses = self.losses
        if self.present_since is not None:
            forgets = self.lost_since is None and now - self.present_since >= FORGET_AFTER
            losses = 1 if forgets else losses + 1
        lost_since = now if self.lost_since is None else self.lost_since
        return FlapDamper(losses, None, lost_since, self.has_failed or now - lost_since >= after)

    def _present(self, now: float) -> "FlapDamper":
        seen = replace(self, present_since=now if self.present_since is None else self.present_since)
        if seen.held_until is not None and now < seen.held_until:
            return seen
        return replace(seen, lost_since=None, has_failed=False)


NEVER_PRESENT = FlapDamper()
"""Nothing was observed yet."""


def lost_at(now: float) -> FlapDamper:
    """That of something which an earlier agent left, and which has not been seen yet."""
    return FlapDamper(losses=1, lost_since=now)


def failed_at(now: float) -> FlapDamper:
    """That of something which is away when it is first needed: there is nothing to lose by not waiting for it."""
    return FlapDamper(losses=1, lost_since=now, has_failed=True)
