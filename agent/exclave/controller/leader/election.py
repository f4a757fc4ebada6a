"""Decides from a Lease which replica leads, as Kubernetes' own components do. Pure. Times are seconds since boot.

A Lease is its holder's until it has not changed for `DURATION` by the reader's clock, so clocks need not agree.
Writes are conditional, so only one replica acquires it. Source: client-go tools/leaderelection.
"""

from dataclasses import dataclass

from exclave.api.requests import LEASES, Object
from exclave.kit.formats.times import rfc3339_micro

DURATION = 15.0  # seconds without a renewal after which another replica may acquire a Lease
DEADLINE = 10.0  # seconds after a renewal began until a leader stops writing: its last requests must end in time
RETRY = 2.0  # seconds between two attempts to acquire or renew


@dataclass(frozen=True)
class LeaseVersion:
    """A Lease's resourceVersion, and when it was observed first."""

    version: str
    at: float


def observe(last: LeaseVersion | None, lease: Object, now: float) -> LeaseVersion:
    """The version of a Lease after it was read again."""
    version = str(lease["metadata"].get("resourceVersion", ""))
    return last if last is not None and last.version == version else LeaseVersion(version, now)


def may_acquire(lease: Object, last: LeaseVersion, me: str, now: float) -> bool:
    """True if the Lease is to be written: we hold it, nobody holds it, or its holder was silent for `DURATION`."""
    holder = (lease.get("spec") or {}).get("holderIdentity") or ""
    return holder in ("", me) or now - last.at >= DURATION


def acquired_lease(lease: Object | None, namespace: str, name: str, me: str, wall: float) -> Object:
    """The Lease with holder `me`: a new one, or conditional on the Lease that was read. `wall` is epoch seconds."""
    metadata, spec = {"name": name, "namespace": namespace}, (lease or {}).get("spec") or {}
    is_mine, transitions = spec.get("holderIdentity") == me, int(spec.get("leaseTransitions") or 0)
    if lease is not None:
        metadata["resourceVersion"] = lease["metadata"].get("resourceVersion", "")
        transitions += not is_mine
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": metadata,
        "spec": {
            "holderIdentity": me,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": spec.get("acquireTime") if is_mine else rfc3339_micro(wall),
            "renewTime": rfc3339_micro(wall),
            "leaseTransitions": transitions,
        },
    }


def released_lease(lease: Object, namespace: str, name: str, wall: float) -> Object:
    """The Lease without a holder, so that the next leader need not wait. `wall` is epoch seconds."""
    nobodys = {**lease, "spec": {**(lease.get("spec") or {}), "holderIdentity": ""}}
    return acquired_lease(nobodys, namespace, name, "", wall)


def time_left(renewed_at: float | None, now: float) -> float:
    """Seconds for which a leader that began its last successful renewal at `renewed_at` may still write; 0 if none."""
    return 0.0 if renewed_at is None else max(0.0, renewed_at + DEADLINE - now)
