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
from typing import ClassVar

from exclave.api.names import DRAIN, PORTS_FINALIZER
from exclave.controller.policy.register import is_ready
from exclave.controller.policy.snapshot import MemberSnapshot, workload_ports

MISSED = 3
"""Heartbeat intervals."""

LEAST_STORM = 3
"""Members that must go stale together before it counts as one event."""


@dataclass(frozen=True)
class LeaseObservation:
    """A Lease as the controller saw it change last: its renewTime, and when that was by the controller's clock.

    `changed` is False for one that has only been met: that says nothing of now.
    """

    renewed: str | None
    observed_at: float
    changed: bool = False


def observe(observation: LeaseObservation | None, renewed: str | None, now: float) -> LeaseObservation:
    """Look at a Lease again."""
    if observation is not None and observation.renewed == renewed:
        return observation
    return LeaseObservation(renewed, now, changed=observation is not None)


def live_members(
    observations: Mapping[tuple[str, str], LeaseObservation],
    were_live: Iterable[tuple[str, str]],
    *,
    interval: float,
    watching_since: float,
    now: float,
) -> set[tuple[str, str]]:
    """Who is live now. `were_live` is the last answer; `watching_since` when the watch of Leases last came back."""
    fresh = {
        key
        for key, observation in observations.items()
        if observation.renewed is not None and now - max(observation.observed_at, watching_since) <= MISSED * interval
    }
    before = {key for key in were_live if key in observations}
    gone = before - fresh
    if len(gone) >= LEAST_STORM and 2 * len(gone) > len(before):
        return fresh | gone
    return fresh


@dataclass(frozen=True)
class DeleteAccount:
    """Delete the member's ServiceAccount: its tokens die."""

    label: ClassVar = "DeleteAccount"


@dataclass(frozen=True)
class MarkNotReady:
    """Write Ready=False to the ExternalWorkload: the one condition that the controller may write, and only so."""

    label: ClassVar = "MarkNotReady"
    reason: str
    message: str


@dataclass(frozen=True)
class EmptyPorts:
    """Empty the ExternalWorkload's ports."""

    label: ClassVar = "EmptyPorts"


@dataclass(frozen=True)
class RecheckAfter:
    """Look again after these seconds."""

    seconds: float


@dataclass(frozen=True)
class DeleteWorkload:
    """Delete the ExternalWorkload."""

    label: ClassVar = "DeleteWorkload"


@dataclass(frozen=True)
class ReleaseWorkload:
    """Take our finalizer off the ExternalWorkload."""

    label: ClassVar = "ReleaseWorkload"


@dataclass(frozen=True)
class DeleteLease:
    """Delete the member's Lease."""

    label: ClassVar = "DeleteLease"


@dataclass(frozen=True)
class ReleaseMember:
    """Take our finalizer off the Member: it is gone."""

    label: ClassVar = "ReleaseMember"


Removal = (
    DeleteAccount
    | MarkNotReady
    | EmptyPorts
    | RecheckAfter
    | DeleteWorkload
    | ReleaseWorkload
    | DeleteLease
    | ReleaseMember
)


def next_removal(snapshot: MemberSnapshot) -> Removal:
    """The next step of undoing a Member that is being deleted."""
    if not snapshot.account_deleted:
        return DeleteAccount()
    if snapshot.workload is not None:
        return retire_workload(snapshot)
    if snapshot.has_lease:
        return DeleteLease()
    return ReleaseMember()


def retire_workload(snapshot: MemberSnapshot) -> Removal:
    """The next step towards no ExternalWorkload."""
    workload = snapshot.workload
    assert workload is not None
    deleting = bool(workload["metadata"].get("deletionTimestamp"))
    if not deleting and is_ready(workload):
        return MarkNotReady("Evicted", "the Member is being deleted")
    if workload_ports(workload):
        return EmptyPorts()
    since = snapshot.now - (snapshot.emptied_at if snapshot.emptied_at is not None else snapshot.now)
    if since < DRAIN:
        return RecheckAfter(DRAIN - since)
    if not deleting:
        return DeleteWorkload()
    if PORTS_FINALIZER in (workload["metadata"].get("finalizers") or []):
        return ReleaseWorkload()
    return RecheckAfter(1.0)
