"""Flap damping: when something that comes and goes counts as lost, as failed, and as back. Pure.

The first loss is over as soon as the thing is back. From the second loss within ten minutes on, it must stay for a hold
time before it counts as back: 5 s, doubling up to five minutes. Until then the loss goes on, so that short losses add
up, and whatever depends on this changes at most thirty times an hour.
"""

from dataclasses import dataclass, replace

from exclave.kit.tasks.backoff import Backoff

HOLDS = Backoff(first=5.0, most=300.0, jitter=0.0)
"""Hold times in seconds, from the second loss on."""

FORGET_AFTER = 600.0
"""Seconds without a loss after which earlier losses do not count any more."""


@dataclass(frozen=True)
class FlapDamper:
    """The damped state of one thing. All times are seconds of one clock.

    `losses` counts those within `FORGET_AFTER`. `present_since` is None while the thing is away. `lost_since` is None
    while it counts as present, and before it was present for the first time. `has_failed`: the loss lasts too long.
    """

    losses: int = 0
    present_since: float | None = None
    lost_since: float | None = None
    has_failed: bool = False

    @property
    def is_steady(self) -> bool:
        """Whether it is present and counts as present."""
        return self.present_since is not None and self.lost_since is None

    @property
    def hold(self) -> float:
        """Hold time in seconds."""
        return HOLDS.pause(self.losses - 2, 0.0) if self.losses >= 2 else 0.0

    @property
    def held_until(self) -> float | None:
        """When it will count as back if it stays; None if it is away, or counts as present."""
        if self.present_since is None or self.lost_since is None:
            return None
        return self.present_since + self.hold

    def observe(self, is_available: bool, now: float, after: float) -> "FlapDamper":
        """The state after one more observation; a loss of `after` seconds is a failure."""
        if is_available:
            return self._present(now)
        if self.present_since is None and self.lost_since is None:
            return self  # it was never present, so it is not lost
        losses = self.losses
        if self.present_since is not None:
            forgets = self.lost_since is None and now - self.present_since >= FORGET_AFTER
            losses = 1 if forgets else losses + 1
        lost_since = now if self.lost_since is None else self.lost_since
        return FlapDamper(losses, None, lost_since, self.has_failed or now - lost_since >= after)

    def _present(self, now: float) -> "FlapDamper":
        present = replace(self, present_since=now if self.present_since is None else self.present_since)
        if present.held_until is not None and now < present.held_until:
            return present
        return replace(present, lost_since=None, has_failed=False)


NEVER_PRESENT = FlapDamper()
"""Nothing was observed yet."""


def lost_at(now: float) -> FlapDamper:
    """The state of something that an earlier agent has left and that was not observed yet."""
    return FlapDamper(losses=1, lost_since=now)


def failed_at(now: float) -> FlapDamper:
    """The state of something that is away when it is first needed: it has failed at once."""
    return FlapDamper(losses=1, lost_since=now, has_failed=True)
