"""One controller of several works at a time: who, decided from a Lease as it is read. Pure.

Rules, those of Kubernetes' own components: a Lease is somebody else's until it has not changed for `DURATION`, by the
reader's own clock, so clocks need not agree. It is taken and renewed by a conditional write, so of two only one
succeeds. A leader that has not renewed for `DEADLINE` stops at once, well before anybody may follow it: what it was
about to write is not written. Times are seconds of a clock that goes on while a machine sleeps.
"""

from dataclasses import dataclass
from typing import Any

from exclave.api.requests import LEASES, Object
from exclave.kit.formats.rfc3339 import rfc3339_micro

DURATION = 15.0
"""Seconds without a renewal after which a Lease may be taken."""

DEADLINE = 10.0
"""Seconds after the last renewal began, after which a leader no longer writes."""

RETRY = 2.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class LeaseVersion:
    """A Lease as it was seen to change last: its resourceVersion, and when."""

    version: str
    at: float


def see(seen: LeaseVersion | None, lease: Object, now: float) -> LeaseVersion:
    """Look at the Lease again."""
    version = str(lease["metadata"].get("resourceVersion", ""))
    return seen if seen is not None and seen.version == version else LeaseVersion(version, now)


def may_acquire(lease: Object, seen: LeaseVersion, me: str, now: float) -> bool:
    """Whether to write: it is ours, nobody's, or its holder has been silent for long enough."""
    holder = (lease.get("spec") or {}).get("holderIdentity") or ""
    return holder in ("", me) or now - seen.at >= DURATION


def acquired_lease(lease: Object | None, namespace: str, name: str, me: str, wall: float) -> Object:
    """The Lease as it is written by `me`: conditional on what was read, or new. `wall` is epoch seconds."""
    if lease is None:
        metadata: dict[str, Any] = {"name": name, "namespace": namespace}
        return _lease(metadata, me, wall, wall_acquired=rfc3339_micro(wall), transitions=0)
    spec = lease.get("spec") or {}
    mine = spec.get("holderIdentity") == me
    acquired = spec.get("acquireTime") if mine else rfc3339_micro(wall)
    transitions = int(spec.get("leaseTransitions") or 0) + (0 if mine else 1)
    metadata = {
        "name": name,
        "namespace": namespace,
        "resourceVersion": lease["metadata"].get("resourceVersion", ""),
    }
    return _lease(metadata, me, wall, acquired, transitions)


def released_lease(lease: Object, namespace: str, name: str, wall: float) -> Object:
    """The Lease as a leader leaves it when it ends in order: the next need not wait."""
    return acquired_lease(
        {**lease, "spec": {**(lease.get("spec") or {}), "holderIdentity": ""}}, namespace, name, "", wall
    )


def time_left(renewed_at: float | None, now: float) -> float:
    """Seconds for which a leader whose last successful renewal began at `renewed_at` may still write; 0 if it may not.

    What it has sent by then may still be carried out for `DURATION - DEADLINE` seconds before anybody else leads.
    """
    return 0.0 if renewed_at is None else max(0.0, renewed_at + DEADLINE - now)


def _lease(metadata: dict[str, Any], holder: str, wall: float, wall_acquired: str | None, transitions: int) -> Object:
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": metadata,
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": wall_acquired,
            "renewTime": rfc3339_micro(wall),
            "leaseTransitions": transitions,
        },
    }
