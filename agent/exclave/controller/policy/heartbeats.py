"""How often members send heartbeats, and whether two machines send those of one member. Pure.

The interval doubles when the fleet would write more than `MOST_WRITES` Leases a second.
A machine draws a new name at each boot. If an earlier name comes back, two machines use one credential, as after a
disk was copied.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SHORTEST = 10.0
"""Seconds between a member's heartbeats in a small fleet."""

MOST_WRITES = 50.0
"""Heartbeats a second, all members together."""

SLACK = 0.8
"""The interval is halved only below this part of `MOST_WRITES`: each change is published to every member."""

FORGET_CLONE = 600.0
"""Seconds after which a second machine that fell silent is no longer reported."""


def interval_for(members: int, current: float = SHORTEST) -> float:
    """Seconds between heartbeats for so many members. `current` is the interval that they use now."""
    interval = max(current, SHORTEST)
    while members / interval > MOST_WRITES:
        interval *= 2
    while interval > SHORTEST and members / (interval / 2) <= SLACK * MOST_WRITES:
        interval /= 2
    return interval


@dataclass(frozen=True)
class Holders:
    """The boots that renewed a Lease: the last one, those before it, and when one came back (epoch seconds)."""

    last: str = ""
    before: frozenset[str] = frozenset()
    returned_at: float | None = None
    returned: tuple[str, str] | None = None

    def observe(self, holder: str, now: float) -> "Holders":
        """The holders after `holder` renewed the Lease."""
        if holder == self.last or not holder:
            return self
        if holder in self.before:
            first, second = sorted((self.last, holder))  # in one order, or each heartbeat would change the condition
            return Holders(holder, self.before | {self.last}, now, (first, second))
        return Holders(holder, self.before | ({self.last} if self.last else set()), self.returned_at, self.returned)

    def clones(self, now: float) -> tuple[str, str] | None:
        """The two boots that renew in turns, None if there is one machine only."""
        if self.returned_at is None or now - self.returned_at > FORGET_CLONE:
            return None
        return self.returned


def holder_of(lease: Mapping[str, object]) -> str:
    """The boot that renewed a Lease last, "" if none did."""
    spec = lease.get("spec")
    return str(spec.get("holderIdentity") or "") if isinstance(spec, dict) else ""
