"""linkerd2-proxy's default inbound policies, for the application and for the admin server. Pure.

Rules: the default policy holds before and after the policy controller's answer, which here is the same default. After
the answer this machine's loopback addresses are always allowed. `deny` has no routes before the answer, so the admin
server answers 404 to every client; afterwards it denies with 403.
Sources: linkerd2-proxy: linkerd/app/inbound/src/policy.rs, policy/defaults.rs, linkerd/proxy/server-policy/src/lib.rs.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from exclave_sandbox.standin.settings import Network

LOOPBACK = ("127.0.0.1", "::1")
"""These alone, not all of their networks."""


def is_permitted(policy: str, networks: Sequence[Network], peer: str, client_id: str | None) -> bool:
    """Whether a connection from `peer` (an IP) is allowed; `client_id` is its identity by TLS, None for plaintext."""
    if policy == "deny":
        return False
    if policy.startswith("cluster-") and not any(ip_address(peer) in network for network in networks):
        return False
    return client_id is not None or not policy.endswith("-authenticated")


def refusal_of_admin(
    policy: str, networks: Sequence[Network], peer: str, client_id: str | None, *, has_arrived: bool
) -> int | None:
    """The status of the admin server's refusal; None if the request is allowed."""
    if has_arrived and peer in LOOPBACK:
        return None
    if policy == "deny" and not has_arrived:
        return 404
    return None if is_permitted(policy, networks, peer, client_id) else 403
