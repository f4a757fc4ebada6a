"""Whether pods can rely on the kernel's rules. Pure.

Only rules in the kernel count, not wanted ones. A replacement is one transaction, so a swap makes no gap.
"""

from dataclasses import dataclass, replace

REPLACING = 5.0
"""Seconds for a replacement, while the rules in the kernel point to a proxy that can serve."""

REPAIRING = 1.0
"""Seconds of the last `WITHIN` for which rules may be missing.

A repair takes some hundredths of a second. To withdraw for that would cost two writes to the cluster, each time. But a
program that undoes every repair makes many gaps, so their sum counts.
"""

WITHIN = 10.0
"""Seconds over which gaps are added up."""


@dataclass(frozen=True)
class RulesFacts:
    """The rules in the kernel.

    `serving`: they point to a proxy that can serve; `gone`: there are none of ours; `wanted`: rules with inbound
    traffic are wanted; `refused`: the kernel does not accept them.
    """

    in_place: bool
    serving: bool
    gone: bool
    wanted: bool
    refused: bool


@dataclass(frozen=True)
class RuleGaps:
    """When rules were not as wanted. `since`: the start of the open gap, None if there is none; `past`: earlier ones.

    Times are seconds of one clock.
    """

    since: float | None = None
    past: tuple[tuple[float, float], ...] = ()
    was_in_place: bool = False

    def observe(self, in_place: bool, now: float) -> "RuleGaps":
        """The gaps after an observation."""
        if not in_place:
            return replace(self, since=now) if self.since is None and self.was_in_place else self
        past = self.past if self.since is None else (*self.past, (self.since, now))
        return RuleGaps(None, tuple(gap for gap in past if gap[1] > now - WITHIN), was_in_place=True)

    def missing_seconds(self, now: float) -> float:
        """Seconds of the last `WITHIN` in which rules were not as wanted."""
        gaps = self.past if self.since is None else (*self.past, (self.since, now))
        return sum(max(0.0, end - max(began, now - WITHIN)) for began, end in gaps)


def can_rely_on_rules(facts: RulesFacts, gaps: RuleGaps, now: float) -> bool:
    """Whether pods can rely on the rules."""
    if not facts.wanted or facts.refused:
        return False
    if facts.in_place:
        return facts.serving
    if gaps.since is None:
        return False
    if facts.serving:
        return now - gaps.since <= REPLACING
    return facts.gone and gaps.missing_seconds(now) <= REPAIRING
