"""Whether the kernel's rules hand what pods send to a proxy that can serve, and which gaps cost nobody readiness. Pure.

Rules: what stands counts, not what is wanted. While rules are replaced, which is one transaction, those that stood
stand, so a swap costs nothing. Rules that others have flushed are back within milliseconds; withdrawing for that, and
taking it back, would be two writes to the cluster and a start for everybody who watches, each time. So a gap counts
only once rules have been away for `REPAIRING` of the last `WITHIN` seconds, all gaps taken together: where some
program undoes every repair, they are mostly away, and that is told.
"""

from dataclasses import dataclass, replace

REPLACING = 5.0
"""Seconds for rules to be replaced by others, while those that stand still point to a proxy that can serve."""

REPAIRING = 1.0
"""Seconds for which rules may be away. A repair takes some hundredths of one, on a busy machine some tenths."""

WITHIN = 10.0
"""Seconds over which gaps are added up."""


@dataclass(frozen=True)
class Sight:
    """What is seen of the rules.

    `serving`: those that stand point to a proxy that can serve; `gone`: none of ours stand; `wanted`: some are, that
    take inbound traffic; `refused`: the kernel does not take them.
    """

    in_place: bool
    serving: bool
    gone: bool
    wanted: bool
    refused: bool


@dataclass(frozen=True)
class Gaps:
    """When rules were not as wanted: since `since`, None if they are or never were; `past` are earlier gaps (from, to).

    Times are seconds of one clock.
    """

    since: float | None = None
    past: tuple[tuple[float, float], ...] = ()
    was_in_place: bool = False

    def see(self, in_place: bool, now: float) -> "Gaps":
        """What has become of them by now."""
        if not in_place:
            return replace(self, since=now) if self.since is None and self.was_in_place else self
        past = self.past if self.since is None else (*self.past, (self.since, now))
        return Gaps(None, tuple(gap for gap in past if gap[1] > now - WITHIN), was_in_place=True)

    def away(self, now: float) -> float:
        """Seconds of the last `WITHIN` in which they were not as wanted."""
        gaps = self.past if self.since is None else (*self.past, (self.since, now))
        return sum(max(0.0, end - max(began, now - WITHIN)) for began, end in gaps)


def judge_rules(sight: Sight, gaps: Gaps, now: float) -> bool:
    """Whether pods may count on the rules."""
    if not sight.wanted or sight.refused:
        return False
    if sight.in_place:
        return sight.serving
    if gaps.since is None:
        return False
    if sight.serving:
        return now - gaps.since <= REPLACING
    return sight.gone and gaps.away(now) <= REPAIRING
