"""The environment, read, and what the inbound policy permits."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from exclave_sandbox.standin.settings import POLICIES, is_permitted, read_environment, refusal_of_admin

PREFIX = "LINKERD2_PROXY_"

LEAST = {
    f"{PREFIX}IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": "unix:///run/exclave/workload.sock",
    f"{PREFIX}IDENTITY_SERVER_ID": "spiffe://cluster.local/ns/shop/sa/web",
    f"{PREFIX}IDENTITY_SERVER_NAME": "web.shop.svc.cluster.local",
    f"{PREFIX}IDENTITY_TRUST_ANCHORS": "PEM",
    f"{PREFIX}DESTINATION_SVC_ADDR": "linkerd-dst-headless.linkerd.svc.cluster.local.:8086",
    f"{PREFIX}POLICY_SVC_ADDR": "linkerd-policy.linkerd.svc.cluster.local.:8090",
}


def changed(**values: str) -> dict[str, str]:
    """The least environment with other values; empty ones are left out."""
    environment = LEAST | {PREFIX + name: value for name, value in values.items()}
    return {name: value for name, value in environment.items() if value}


def test_a_missing_variable_has_linkerd2_proxys_default() -> None:
    read = read_environment(LEAST)
    assert (read.inbound, read.outbound, read.admin) == (
        ("0.0.0.0", 4143),
        (("127.0.0.1", 4140),),
        ("127.0.0.1", 4191),
    )
    assert (read.policy, read.remember, read.grace) == ("all-unauthenticated", 5.0, 120.0)
    assert read.inbound_ips == frozenset()
    assert read.destination == ("linkerd-dst-headless.linkerd.svc.cluster.local.", 8086)


def test_every_variable_is_parsed() -> None:
    read = read_environment(
        changed(
            INBOUND_LISTEN_ADDR="[fd77:ec1a:7e::1]:4143",
            OUTBOUND_LISTEN_ADDRS="169.254.77.1:4140,[fd77:ec1a:7e::1]:4140",
            INBOUND_IPS="10.77.0.20, fd00:77::20",
            POLICY_CLUSTER_NETWORKS="10.42.0.0/16,fd00:42::/32",
            OUTBOUND_DISCOVERY_IDLE_TIMEOUT="1h",
            SHUTDOWN_GRACE_PERIOD="2500ms",
            INBOUND_DEFAULT_POLICY="deny",
        )
    )
    assert read.inbound == ("fd77:ec1a:7e::1", 4143)
    assert read.outbound == (("169.254.77.1", 4140), ("fd77:ec1a:7e::1", 4140))
    assert read.inbound_ips == {"10.77.0.20", "fd00:77::20"}
    assert read.cluster_networks == (ip_network("10.42.0.0/16"), ip_network("fd00:42::/32"))
    assert (read.policy, read.remember, read.grace) == ("deny", 3600.0, 2.5)


@pytest.mark.parametrize(("port", "opaque"), [(24, False), (25, True), (3000, True), (3005, True), (3006, False)])
def test_opaque_ports_are_numbers_and_ranges(port: int, opaque: bool) -> None:
    read = read_environment(changed(INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION="25, 3000-3005"))
    assert read.is_opaque(port) is opaque


@pytest.mark.parametrize("name", ["IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", "IDENTITY_SPIRE_SOCKET"])
def test_the_workload_api_is_found_by_its_newer_and_its_older_name(name: str) -> None:
    environment = changed(IDENTITY_SPIRE_WORKLOAD_API_ADDRESS="") | {PREFIX + name: "unix:///run/w.sock"}
    read = read_environment(environment)
    assert read.workload_api is not None and Path(read.workload_api) == Path("/run/w.sock")
    assert read.identity_dir is None


def test_a_pods_identity_is_in_a_folder_and_is_its_server_name() -> None:
    name = "orders.shop.serviceaccount.identity.linkerd.cluster.local"
    environment = changed(IDENTITY_SERVER_ID="", IDENTITY_SERVER_NAME="", IDENTITY_LOCAL_NAME=name)
    read = read_environment(environment | {"EXCLAVE_STANDIN_IDENTITY_DIR": "/var/run/linkerd/identity"})
    assert (read.server_id, read.server_name) == (name, name)
    assert (read.workload_api, read.identity_dir) == (None, Path("/var/run/linkerd/identity"))


REFUSED = {
    "no Workload API": (
        changed(IDENTITY_SPIRE_WORKLOAD_API_ADDRESS=""),
        "LINKERD2_PROXY_IDENTITY_SPIRE_WORKLOAD_API_ADDRESS or EXCLAVE_STANDIN_IDENTITY_DIR must be set",
    ),
    "an identity that is no SPIFFE ID": (
        changed(IDENTITY_SERVER_ID="web.shop.serviceaccount.identity.linkerd.cluster.local"),
        "Spire support requires a SPIFFE TLS Id",
    ),
    "no identity": (changed(IDENTITY_SERVER_ID=""), "LINKERD2_PROXY_IDENTITY_SERVER_ID must be set"),
    "no server name": (changed(IDENTITY_SERVER_NAME=""), "LINKERD2_PROXY_IDENTITY_SERVER_NAME must be set"),
    "no anchors": (changed(IDENTITY_TRUST_ANCHORS=""), "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS must be set"),
    "no destination controller": (changed(DESTINATION_SVC_ADDR=""), "LINKERD2_PROXY_DESTINATION_SVC_ADDR must be set"),
    "no policy controller": (changed(POLICY_SVC_ADDR=""), "LINKERD2_PROXY_POLICY_SVC_ADDR must be set"),
    "a policy that does not exist": (
        changed(INBOUND_DEFAULT_POLICY="open"),
        "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY='open': one of deny, all-authenticated, all-unauthenticated, "
        "cluster-authenticated, cluster-unauthenticated, audit was expected",
    ),
    "an address without a port": (
        changed(ADMIN_LISTEN_ADDR="169.254.77.1"),
        "LINKERD2_PROXY_ADMIN_LISTEN_ADDR='169.254.77.1': HOST:PORT was expected",
    ),
    "a port that is no number": (
        changed(DESTINATION_SVC_ADDR="linkerd-dst-headless:grpc"),
        "LINKERD2_PROXY_DESTINATION_SVC_ADDR='linkerd-dst-headless:grpc': HOST:PORT was expected",
    ),
    "three outbound addresses": (
        changed(OUTBOUND_LISTEN_ADDRS="127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"),
        "LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS: only two addresses are supported",
    ),
}


@pytest.mark.parametrize(("environment", "words"), REFUSED.values(), ids=REFUSED)
def test_an_environment_is_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_environment(environment)
    assert str(caught.value) == words


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
def test_permitted_connections(policy: str, expected: tuple[bool, ...]) -> None:
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
def test_refusals_of_the_admin_server(policy: str, expected: tuple[int | None, ...]) -> None:
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
