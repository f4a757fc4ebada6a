"""Who may reach the application, and the admin server: linkerd2-proxy's default inbound policies. Pure.

Rules: the default holds until a policy controller has answered, and the stand-in's answers with that same default. What
an answer brings besides: this machine's loopback addresses may always come. `deny` knows no routes before that, so that
the admin server answers 404 to everybody, and is an ordinary policy that lets nobody in afterwards: 403.
Sources: linkerd2-proxy: linkerd/app/inbound/src/policy.rs, policy/defaults.rs, linkerd/proxy/server-policy/src/lib.rs.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from exclave_sandbox.standin.settings import Network

LOOPBACK = ("127.0.0.1", "::1")
"""These alone, not all of their networks."""


def is_permitted(policy: str, networks: Sequence[Network], peer: str, client_id: str | None) -> bool:
    """Whether a connection from `peer` (an IP) may go on; `client_id` is who TLS says it is, None for plaintext."""
    if policy == "deny":
        return False
    if policy.startswith("cluster-") and not any(ip_address(peer) in network for network in networks):
        return False
    return client_id is not None or not policy.endswith("-authenticated")


def refusal_of_admin(
    policy: str, networks: Sequence[Network], peer: str, client_id: str | None, *, has_arrived: bool
) -> int | None:
    """The status that the admin server refuses a request with; None if it answers."""
    if has_arrived and peer in LOOPBACK:
        return None
    if policy == "deny" and not has_arrived:
        return 404
    return None if is_permitted(policy, networks, peer, client_id) else 403
