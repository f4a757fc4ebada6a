"""Heartbeats over the fleet: how often, and whether two machines send those of one member. Pure.

Rules: all members together write at most `MOST_WRITES` Leases a second, so the interval grows with the fleet, by
doubling, and shrinks again with some distance, since each change is told to every member. A boot's name is drawn when a
machine boots and never comes back: one that does, after another has been seen, means that two machines have one
credential, as a copied disk has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SHORTEST = 10.0
"""Seconds between a member's heartbeats in a small fleet."""

MOST_WRITES = 50.0
"""Heartbeats a second, all members together."""

SLACK = 0.8
"""The interval is halved again only when this part of what it then allows is not reached."""

FORGET_CLONE = 600.0
"""Seconds after which a second machine that has fallen silent is no longer told of."""


def interval_for(members: int, current: float = SHORTEST) -> float:
    """Seconds between heartbeats, given how many members there are and what they have been told."""
    interval = max(current, SHORTEST)
    while members / interval > MOST_WRITES:
        interval *= 2
    while interval > SHORTEST and members / (interval / 2) <= SLACK * MOST_WRITES:
        interval /= 2
    return interval


@dataclass(frozen=True)
class Holders:
    """Who has renewed a Lease: the boot that did last, those before it, and when one came back (epoch seconds)."""

    last: str = ""
    before: frozenset[str] = frozenset()
    returned_at: float | None = None
    returned: tuple[str, str] | None = None

    def observe(self, holder: str, now: float) -> "Holders":
        """Look at a Lease again."""
        if holder == self.last or not holder:
            return self
        if holder in self.before:
            first, second = sorted((self.last, holder))  # in one order, or each heartbeat would tell another story
            return Holders(holder, self.before | {self.last}, now, (first, second))
        return Holders(holder, self.before | ({self.last} if self.last else set()), self.returned_at, self.returned)

    def clones(self, now: float) -> tuple[str, str] | None:
        """The two boots that take turns, None if one machine alone is heard."""
        if self.returned_at is None or now - self.returned_at > FORGET_CLONE:
            return None
        return self.returned


def holder_of(lease: Mapping[str, object]) -> str:
    """Who renewed a Lease last."""
    spec = lease.get("spec")
    return str(spec.get("holderIdentity") or "") if isinstance(spec, dict) else ""
