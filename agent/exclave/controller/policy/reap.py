"""Which members are live, and in which order a Member is removed. Pure.

A member is live if its Lease changed within three intervals, by the controller's own clock.
A Member is removed in this order: account (new requests fail from then on), Ready=False, ports, a pause until clients
have noticed, ExternalWorkload, Lease, finalizer.
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
"""Members that must fall silent together before it counts as one event."""


@dataclass(frozen=True)
class LeaseObservation:
    """The renewTime of a Lease, and when the controller first observed it (epoch seconds, the controller's clock).

    `changed` is False for the first observation of a Lease: it may have been renewed long ago.
    """

    renewed: str | None
    observed_at: float
    changed: bool = False


def observe(observation: LeaseObservation | None, renewed: str | None, now: float) -> LeaseObservation:
    """The observation of a Lease after it was read again."""
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
    """The members that are live now. `were_live`: the last answer.

    `watching_since`: since when the watch of Leases works; only the time after it counts as silence.
    """
    fresh = {
        key
        for key, observation in observations.items()
        if observation.renewed is not None and now - max(observation.observed_at, watching_since) <= MISSED * interval
    }
    before = {key for key in were_live if key in observations}
    gone = before - fresh
    # If so many fall silent at once, the fault is more likely in the network or in us, so nobody is withdrawn.
    if len(gone) >= LEAST_STORM and 2 * len(gone) > len(before):
        return fresh | gone
    return fresh


@dataclass(frozen=True)
class DeleteAccount:
    """Delete the member's ServiceAccount, which ends its tokens."""

    label: ClassVar = "DeleteAccount"


@dataclass(frozen=True)
class MarkNotReady:
    """Write Ready=False to the ExternalWorkload. Ready=True is only the machine's to write."""

    label: ClassVar = "MarkNotReady"
    reason: str
    message: str


@dataclass(frozen=True)
class EmptyPorts:
    """Empty the ExternalWorkload's ports."""

    label: ClassVar = "EmptyPorts"


@dataclass(frozen=True)
class RecheckAfter:
    """Reconcile again after these seconds."""

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
    """Take our finalizer off the Member, which is gone then."""

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
    """The next transition of a Member that is being deleted."""
    if not snapshot.account_deleted:
        return DeleteAccount()
    if snapshot.workload is not None:
        return retire_workload(snapshot)
    if snapshot.has_lease:
        return DeleteLease()
    return ReleaseMember()


def retire_workload(snapshot: MemberSnapshot) -> Removal:
    """The next transition towards the deletion of the ExternalWorkload."""
    workload = snapshot.workload
    assert workload is not None
    deleting = bool(workload["metadata"].get("deletionTimestamp"))
    if not deleting and is_ready(workload):
        return MarkNotReady("Evicted", "the Member is being deleted")
    if workload_ports(workload):
        return EmptyPorts()  # deleting one with ports crashes older destination controllers, see docs/linkerd.md
    since = snapshot.now - (snapshot.emptied_at if snapshot.emptied_at is not None else snapshot.now)
    if since < DRAIN:
        return RecheckAfter(DRAIN - since)
    if not deleting:
        return DeleteWorkload()
    if PORTS_FINALIZER in (workload["metadata"].get("finalizers") or []):
        return ReleaseWorkload()
    return RecheckAfter(1.0)
