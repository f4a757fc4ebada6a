"""Who may reach the application: linkerd2-proxy's default inbound policies. Pure.

Rules: the default holds until a policy controller has answered, and the stand-in has none, so it always holds.
Source: linkerd2-proxy/linkerd/app/inbound/src/policy/defaults.rs.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from exclave.sandbox.standin_settings import Network


def is_permitted(policy: str, networks: Sequence[Network], peer: str, client_id: str | None) -> bool:
    """Whether a connection from `peer` (an IP) may go on; `client_id` is who TLS says it is, None for plaintext."""
    if policy == "deny":
        return False
    if policy.startswith("cluster-") and not any(ip_address(peer) in network for network in networks):
        return False
    return client_id is not None or not policy.endswith("-authenticated")
