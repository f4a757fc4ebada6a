"""Default inbound policies, as tables: who may come in, and what the admin server says to whom."""

from ipaddress import ip_network

import pytest

from exclave_sandbox.standin.policy import is_permitted, refusal_of_admin
from exclave_sandbox.standin.settings import POLICIES

NETWORKS = (ip_network("10.42.0.0/16"), ip_network("fd00:42::/32"))
INSIDE, OUTSIDE = "10.42.0.10", "192.0.2.7"
POD = "orders.shop.serviceaccount.identity.linkerd.cluster.local"

#                             pod inside, plain inside, pod outside, plain outside
TABLE = {
    "deny": (False, False, False, False),
    "all-authenticated": (True, False, True, False),
    "all-unauthenticated": (True, True, True, True),
    "cluster-authenticated": (True, False, False, False),
    "cluster-unauthenticated": (True, True, False, False),
    "audit": (True, True, True, True),
}


def test_every_policy_is_in_the_table() -> None:
    assert set(TABLE) == set(POLICIES)


@pytest.mark.parametrize(("policy", "expected"), TABLE.items(), ids=TABLE)
def test_who_may_come_in(policy: str, expected: tuple[bool, ...]) -> None:
    met = [is_permitted(policy, NETWORKS, peer, who) for peer in (INSIDE, OUTSIDE) for who in (POD, None)]
    assert tuple(met) == expected


def test_both_families_are_networks_of_the_cluster() -> None:
    assert is_permitted("cluster-unauthenticated", NETWORKS, "fd00:42::9", None)
    assert not is_permitted("cluster-unauthenticated", NETWORKS, "fd00:43::9", None)


#                             the loopback address, the private link's; before policies have come, and after
ADMIN = {
    "deny": (404, 404, None, 403),
    "all-authenticated": (403, 403, None, 403),
    "all-unauthenticated": (None, None, None, None),
    "cluster-authenticated": (403, 403, None, 403),
    "cluster-unauthenticated": (403, 403, None, 403),
    "audit": (None, None, None, None),
}
"""As tests/proxy/test_real_proxy.py finds it with the real one."""


def test_every_policy_is_in_the_table_of_the_admin_server() -> None:
    assert set(ADMIN) == set(POLICIES)


@pytest.mark.parametrize(("policy", "expected"), ADMIN.items(), ids=ADMIN)
def test_whom_the_admin_server_refuses(policy: str, expected: tuple[int | None, ...]) -> None:
    met = [
        refusal_of_admin(policy, NETWORKS, peer, None, has_arrived=has_arrived)
        for has_arrived in (False, True)
        for peer in ("127.0.0.1", "169.254.77.1")
    ]
    assert tuple(met) == expected


def test_the_admin_server_allows_one_loopback_address_of_each_family_and_authenticated_clients() -> None:
    assert refusal_of_admin("deny", NETWORKS, "::1", None, has_arrived=True) is None
    assert refusal_of_admin("deny", NETWORKS, "127.0.0.2", None, has_arrived=True) == 403
    assert refusal_of_admin("all-authenticated", NETWORKS, OUTSIDE, POD, has_arrived=False) is None
