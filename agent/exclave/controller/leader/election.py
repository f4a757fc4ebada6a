"""Which of several replicas leads, decided from a Lease, as Kubernetes' own components do. Pure.

A Lease belongs to its holder until it has not changed for `DURATION` by the reader's clock, so clocks need not agree.
It is acquired and renewed by conditional writes, so only one replica succeeds. A leader that has not renewed for
`DEADLINE` stops writing, before another one may lead. Times are seconds of a clock that runs while a machine sleeps.
Source: client-go tools/leaderelection.
"""

from dataclasses import dataclass

from exclave.api.requests import LEASES, Object
from exclave.kit.formats.times import rfc3339_micro

DURATION = 15.0  # seconds without a renewal after which another replica may acquire a Lease
DEADLINE = 10.0  # seconds after the start of its last renewal, after which a leader no longer writes
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
    """Whether to write the Lease: it is ours, it is nobody's, or its holder was silent for `DURATION`."""
    holder = (lease.get("spec") or {}).get("holderIdentity") or ""
    return holder in ("", me) or now - last.at >= DURATION


def acquired_lease(lease: Object | None, namespace: str, name: str, me: str, wall: float) -> Object:
    """The Lease as `me` writes it: a new one, or conditional on the one that was read. `wall` is epoch seconds."""
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
    """The Lease without a holder, so that the next leader need not wait."""
    nobodys = {**lease, "spec": {**(lease.get("spec") or {}), "holderIdentity": ""}}
    return acquired_lease(nobodys, namespace, name, "", wall)


def time_left(renewed_at: float | None, now: float) -> float:
    """Seconds for which a leader whose last successful renewal began at `renewed_at` may still write; 0 if it may not.

    Requests that it sent before have `DURATION - DEADLINE` seconds to end before another replica leads.
    """
    return 0.0 if renewed_at is None else max(0.0, renewed_at + DEADLINE - now)
