"""The dead and the leaving: who is not live, and in which order a Member is undone. Pure.

Live: its Lease was seen to change within three intervals, by the controller's own clock, counting only the time in
which its watch worked; whoever seems not to be is asked after once more, by reading the Lease, since a watch can stall
without a word. If more than half of the fleet, and at least three, go stale together, the fault is likelier to
be ours or the network's, and nobody is withdrawn.
Undoing walks backwards: account deleted (new requests fail from then on), Ready=False, ports emptied, a pause so that
clients have heard, ExternalWorkload deleted, Lease deleted, finalizers off. Deleting an ExternalWorkload that still has
ports crashes older destination controllers, so its own finalizer holds it until they are gone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exclave.api.names import DRAIN, PORTS_FINALIZER
from exclave.controller.policy.register import is_ready
from exclave.controller.policy.snapshot import MemberWorld, workload_ports

MISSED = 3
"""Heartbeat intervals."""

LEAST_STORM = 3
"""Members that must go stale together before it counts as one event."""


@dataclass(frozen=True)
class Sight:
    """A Lease as the controller saw it change last: its renewTime, and when that was by the controller's clock.

    `changed` is False for one that has only been met: that says nothing of now.
    """

    renewed: str | None
    seen_at: float
    changed: bool = False


def see(sight: Sight | None, renewed: str | None, now: float) -> Sight:
    """Look at a Lease again."""
    if sight is not None and sight.renewed == renewed:
        return sight
    return Sight(renewed, now, changed=sight is not None)


def live_members(
    sights: Mapping[tuple[str, str], Sight],
    were_live: Iterable[tuple[str, str]],
    *,
    interval: float,
    watching_since: float,
    now: float,
) -> set[tuple[str, str]]:
    """Who is live now. `were_live` is the last answer; `watching_since` when the watch of Leases last came back."""
    fresh = {
        key
        for key, sight in sights.items()
        if sight.renewed is not None and now - max(sight.seen_at, watching_since) <= MISSED * interval
    }
    before = {key for key in were_live if key in sights}
    gone = before - fresh
    if len(gone) >= LEAST_STORM and 2 * len(gone) > len(before):
        return fresh | gone
    return fresh


@dataclass(frozen=True)
class DeleteAccount:
    """Delete the member's ServiceAccount: its tokens die."""


@dataclass(frozen=True)
class MarkNotReady:
    """Write Ready=False to the ExternalWorkload: the one condition that the controller may write, and only so."""

    reason: str
    message: str


@dataclass(frozen=True)
class EmptyPorts:
    """Empty the ExternalWorkload's ports."""


@dataclass(frozen=True)
class Wait:
    """Look again after these seconds."""

    seconds: float


@dataclass(frozen=True)
class DeleteWorkload:
    """Delete the ExternalWorkload."""


@dataclass(frozen=True)
class ReleaseWorkload:
    """Take our finalizer off the ExternalWorkload."""


@dataclass(frozen=True)
class DeleteLease:
    """Delete the member's Lease."""


@dataclass(frozen=True)
class ReleaseMember:
    """Take our finalizer off the Member: it is gone."""


Undoing = (
    DeleteAccount | MarkNotReady | EmptyPorts | Wait | DeleteWorkload | ReleaseWorkload | DeleteLease | ReleaseMember
)


def next_undoing(world: MemberWorld) -> Undoing:
    """The next step of undoing a Member that is being deleted."""
    if not world.account_deleted:
        return DeleteAccount()
    if world.workload is not None:
        return retire_workload(world)
    if world.has_lease:
        return DeleteLease()
    return ReleaseMember()


def retire_workload(world: MemberWorld) -> Undoing:
    """The next step towards no ExternalWorkload."""
    workload = world.workload
    assert workload is not None
    deleting = bool(workload["metadata"].get("deletionTimestamp"))
    if not deleting and is_ready(workload):
        return MarkNotReady("Evicted", "the Member is being deleted")
    if workload_ports(workload):
        return EmptyPorts()
    since = world.now - (world.emptied_at if world.emptied_at is not None else world.now)
    if since < DRAIN:
        return Wait(DRAIN - since)
    if not deleting:
        return DeleteWorkload()
    if PORTS_FINALIZER in (workload["metadata"].get("finalizers") or []):
        return ReleaseWorkload()
    return Wait(1.0)
