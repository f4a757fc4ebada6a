"""Which members are live, by the renewals of their Leases. Pure.

The rule itself is `live_members` in policy/reap.py. Here is what was observed so far.
"""

from collections.abc import Collection, Iterable

from exclave.api.member import LIVE, read_conditions
from exclave.controller.cache import Cache
from exclave.controller.policy.heartbeats import SHORTEST, Holders, holder_of
from exclave.controller.policy.reap import LeaseObservation, live_members, observe
from exclave.controller.policy.snapshot import Key


class Liveness:
    """The Leases that were observed, and the members that are live.

    `patience`: the longest interval (seconds) that a member may use at the moment.
    `watching_since`: since when the watch of Leases works without a gap (epoch seconds).
    """

    def __init__(self, members: Cache, leases: Cache) -> None:
        self.patience = SHORTEST
        self.watching_since = 0.0
        self.live: set[Key] = set()
        self._members = members
        self._leases = leases
        self._observations: dict[Key, LeaseObservation] = {}
        self._holders: dict[Key, Holders] = {}

    def observe(self, key: Key, now: float) -> bool:
        """Observe a Lease that may have changed.

        True if its member must be reconciled: it was not live, or two machines renew the Lease in turns.
        """
        lease = self._leases.objects.get(key)
        if lease is None:
            self.forget(key)
            return True
        was_live = self.is_live(key)
        renewed = (lease.get("spec") or {}).get("renewTime")
        holders = self._holders.get(key, Holders())
        self._observations[key] = observe(self._observations.get(key), renewed, now)
        current = self._holders[key] = holders.observe(holder_of(lease), now)
        return not was_live or current.returned != holders.returned

    def forget(self, key: Key) -> None:
        """Drop what was observed of a Lease that is gone."""
        self._observations.pop(key, None)
        self._holders.pop(key, None)

    def mark_live(self, keys: Iterable[Key]) -> None:
        """Mark the members of these Leases as live where the Lease proves it. All other members stay as they are."""
        for key in keys:
            observation = self._observations.get(key)
            if observation is not None and observation.renewed is not None and self._is_evidence(key, observation):
                self.live.add(key)

    def overdue(self, now: float) -> set[Key]:
        """The members that would stop being live, as far as the watch of Leases shows."""
        return self.live - self._live_now(now)

    def refresh(self, now: float, unread: Collection[Key] = ()) -> set[Key]:
        """Decide anew who is live. Returns the members for which that changed.

        `unread`: members whose Lease could not be read again; they stay live.
        """
        before = set(self.live)
        self.live = self._live_now(now) | before.intersection(unread)
        return before ^ self.live

    def has_heartbeat(self, key: Key) -> bool:
        """Whether a member's Lease was ever renewed."""
        observation = self._observations.get(key)
        return observation is not None and observation.renewed is not None

    def is_live(self, key: Key) -> bool:
        """Whether a Member is live."""
        # A Lease that was never renewed is a new Member's: `live` may still hold an earlier one of the same name.
        return key in self.live and self.has_heartbeat(key)

    def clones(self, key: Key, now: float) -> tuple[str, str] | None:
        """The two boots that renew a Lease in turns, None if one machine does."""
        return self._holders.get(key, Holders()).clones(now)

    def _is_evidence(self, key: Key, observation: LeaseObservation) -> bool:
        """Whether a Lease is evidence of life: it changed since we started, or condition Live is True."""
        member = self._members.objects.get(key)
        if member is None or observation.changed:
            return member is not None  # a Lease without a Member is a node's, for example
        # A Lease that has not changed yet may be years old. Without the condition, a member that died long ago would
        # be live again, with its ports, whenever a controller starts.
        status = member.get("status")  # all members are asked at each tick, so `view_member` would cost too much
        conditions = read_conditions(status.get("conditions")) if isinstance(status, dict) else ()
        return any(one.type == LIVE and one.status for one in conditions)

    def _live_now(self, now: float) -> set[Key]:
        evidence = {key: one for key, one in self._observations.items() if self._is_evidence(key, one)}
        return live_members(evidence, self.live, interval=self.patience, watching_since=self.watching_since, now=now)
