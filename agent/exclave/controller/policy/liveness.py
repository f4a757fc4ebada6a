"""Decides which members are live, how often they send heartbeats, and whether two machines use one membership. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exclave.api.malformed import mapping_in
from exclave.api.member import LIVE, read_conditions
from exclave.api.requests import Object
from exclave.controller.cache import Cache
from exclave.controller.policy.snapshot import Key

SHORTEST = 10.0  # seconds between a member's heartbeats in a small fleet
MOST_WRITES = 50.0  # heartbeats a second, all members together; above it, the interval doubles
SLACK = 0.8  # the interval is halved only below this part of `MOST_WRITES`, because every member must load a change
FORGET_CLONE = 600.0  # seconds after which a second machine without heartbeats is no longer reported
MISSED = 3  # heartbeat intervals
MOST_HOLDERS = 16  # earlier boots of one Lease that are remembered. A copied credential returns after one or two.
LONGEST_HOLDER = 256  # characters; the admission policy lets no machine write more
NEVER = float("inf")  # of a time since when Leases are watched: they are not, and nobody counts as silent
LEAST_STORM = 3  # members that must fall silent together to count as one outage


def interval_for(members: int, current: float = SHORTEST) -> float:
    """Seconds between heartbeats for this number of members. `current` is the interval in use."""
    interval = max(current, SHORTEST)
    while members / interval > MOST_WRITES:
        interval *= 2
    while interval > SHORTEST and members / (interval / 2) <= SLACK * MOST_WRITES:
        interval /= 2
    return interval


@dataclass(frozen=True)
class Holders:
    """The boots that renewed a Lease: the last one, earlier ones, and when one of these returned (epoch seconds)."""

    last: str = ""
    before: tuple[str, ...] = ()  # the latest last
    returned_at: float | None = None
    returned: tuple[str, str] | None = None

    def observe(self, holder: str, now: float) -> "Holders":
        """The holders after `holder` renewed the Lease."""
        if holder == self.last or not holder:
            return self
        # A machine draws a new name at each boot. An earlier one returns if two machines use one copied credential.
        if holder in self.before:
            first, second = sorted((self.last, holder))  # sorted, or the condition would change at each heartbeat
            return Holders(holder, self._earlier(), now, (first, second))
        return Holders(holder, self._earlier(), self.returned_at, self.returned)

    def _earlier(self) -> tuple[str, ...]:
        others = tuple(one for one in self.before if one != self.last)
        return (*others, self.last)[-MOST_HOLDERS:] if self.last else others

    def clones(self, now: float) -> tuple[str, str] | None:
        """The two boots that renew in turns; None if there is only one machine."""
        if self.returned_at is None or now - self.returned_at > FORGET_CLONE:
            return None
        return self.returned


def lease_fields(lease: Object) -> Object:
    """What is needed of a Lease. Anybody may store one with the label of a group, and 1.5 MB in it. Never raises."""
    metadata, spec = mapping_in(lease, "metadata"), mapping_in(lease, "spec")
    if not metadata or not isinstance(lease.get("spec", {}), dict):
        return lease  # malformed: whoever reads it reports it
    return {
        "metadata": {key: metadata[key] for key in ("namespace", "name", "uid", "resourceVersion") if key in metadata},
        "spec": {key: _cut(spec[key]) for key in ("holderIdentity", "renewTime") if key in spec},
    }


def _cut(value: Any) -> Any:
    return value[:LONGEST_HOLDER] if isinstance(value, str) else None


def holder_of(lease: Mapping[str, object]) -> str:
    """The boot that renewed a Lease last; "" if none did."""
    spec = lease.get("spec")
    return str(spec.get("holderIdentity") or "") if isinstance(spec, dict) else ""


@dataclass(frozen=True)
class LeaseObservation:
    """The time when a Lease was first observed with its current renewTime."""

    renewed: str | None  # the Lease's renewTime
    observed_at: float  # epoch seconds, by the controller's clock
    changed: bool = False  # False for a Lease's first observation: its last renewal may be long ago

    def observe(self, renewed: str | None, now: float) -> "LeaseObservation":
        """The observation after reading the Lease again."""
        return self if self.renewed == renewed else LeaseObservation(renewed, now, changed=True)


def live_members(
    observations: Mapping[Key, LeaseObservation],
    were_live: Iterable[Key],
    *,
    interval: float,
    watching_since: float,
    now: float,
) -> set[Key]:
    """The live members; `were_live`: the last result. Only time after `watching_since` counts as silence."""
    fresh = {
        key
        for key, observation in observations.items()
        if observation.renewed is not None and now - max(observation.observed_at, watching_since) <= MISSED * interval
    }
    before = {key for key in were_live if key in observations}
    gone = before - fresh
    # If so many fall silent at once, the fault is more likely in the network or in us, so no member is withdrawn.
    if len(gone) >= LEAST_STORM and 2 * len(gone) > len(before):
        return fresh | gone
    return fresh


class Liveness:
    """The observed Leases, and the live members."""

    def __init__(self, members: Cache, leases: Cache) -> None:
        self.patience = SHORTEST  # the longest interval (seconds) that a member may use now
        self.watching_since = 0.0  # since when the watch of Leases works without a gap (epoch seconds)
        self.live: set[Key] = set()
        self._members = members
        self._leases = leases
        self._observations: dict[Key, LeaseObservation] = {}
        self._holders: dict[Key, Holders] = {}

    def observe(self, key: Key, now: float) -> bool:
        """Observe a Lease. True if its member must be reconciled: it was not live, or two machines renew in turns."""
        lease = self._leases.objects.get(key)
        if lease is None:
            self.forget(key)
            return True
        was_live = self.is_live(key)
        renewed = (lease.get("spec") or {}).get("renewTime")
        holders = self._holders.get(key, Holders())
        last = self._observations.get(key)
        self._observations[key] = last.observe(renewed, now) if last else LeaseObservation(renewed, now)
        current = self._holders[key] = holders.observe(holder_of(lease), now)
        return not was_live or current.returned != holders.returned

    def forget(self, key: Key) -> None:
        """Delete the observations of a Lease that is gone."""
        self._observations.pop(key, None)
        self._holders.pop(key, None)

    def mark_live(self, keys: Iterable[Key]) -> None:
        """Mark the members of these Leases as live if the Lease is evidence. Other members do not change."""
        for key in keys:
            observation = self._observations.get(key)
            if observation is not None and observation.renewed is not None and self._is_evidence(key, observation):
                self.live.add(key)

    def overdue(self, now: float) -> set[Key]:
        """The members that would stop being live, according to the watch of Leases."""
        return self.live - self._live_now(now)

    def refresh(self, now: float, unread: Collection[Key] = ()) -> set[Key]:
        """Decide again which members are live. Returns the changed members. `unread` (Lease not readable) stay live."""
        before = set(self.live)
        self.live = self._live_now(now) | before.intersection(unread)
        return before ^ self.live

    def has_heartbeat(self, key: Key) -> bool:
        """True if a member's Lease was ever renewed."""
        observation = self._observations.get(key)
        return observation is not None and observation.renewed is not None

    def is_live(self, key: Key) -> bool:
        """True if a Member is live."""
        # A Lease that was never renewed belongs to a new Member, while `live` may hold an earlier one of this name.
        return key in self.live and self.has_heartbeat(key)

    def clones(self, key: Key, now: float) -> tuple[str, str] | None:
        """The two boots that renew a Lease in turns; None if only one machine does."""
        return self._holders.get(key, Holders()).clones(now)

    def _is_evidence(self, key: Key, observation: LeaseObservation) -> bool:
        """True if a Lease is evidence of life: it changed since we started, or condition Live is True."""
        member = self._members.objects.get(key)
        if member is None or observation.changed:
            return member is not None  # a Lease without a Member belongs to a node, for example
        # A Lease that has not changed yet may be years old. Without this condition, a restarted controller would count
        # every dead member as live, with its ports.
        status = member.get("status")  # this runs for all members at each tick: `view_member` would cost too much
        conditions = read_conditions(status.get("conditions")) if isinstance(status, dict) else ()
        return any(one.type == LIVE and one.status for one in conditions)

    def _live_now(self, now: float) -> set[Key]:
        evidence = {key: one for key, one in self._observations.items() if self._is_evidence(key, one)}
        return live_members(evidence, self.live, interval=self.patience, watching_since=self.watching_since, now=now)
