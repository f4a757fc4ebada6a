"""Default inbound policies, as a table: who may come in."""

from ipaddress import ip_network

import pytest

from exclave.sandbox.standin_policy import is_permitted
from exclave.sandbox.standin_settings import POLICIES

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
