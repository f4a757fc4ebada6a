"""The Lease that a machine renews as its heartbeat. Pure."""

from exclave.api.requests import LEASES, Request, patch
from exclave.kit.formats.times import rfc3339_micro


def heartbeat_request(namespace: str, member: str, holder: str, now: float) -> Request:
    """A renewal of a member's Lease. Source: LeaseSpec in k8s.io/api/coordination/v1/types.go."""
    return patch(LEASES, namespace, member, {"spec": {"holderIdentity": holder, "renewTime": rfc3339_micro(now)}})
