"""What may become a rule: from settings and configuration, with every value checked."""

from dataclasses import replace
from ipaddress import collapse_addresses, ip_address, ip_network
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.api.group import Port
from exclave.api.settings import Settings
from exclave.config import RedirectConfig
from exclave.kit.formats.ranges import Span
from exclave.redirect.rules.policy import NEVER_CAPTURED, HostExclusions, RedirectPolicy, Server, collapsed, make_policy
from exclave.redirect.rules.ruleset import render_ruleset
from support.mesh import make_settings

from ..policies import PLAIN, PROXY


def made(settings: Settings | None = None, config: RedirectConfig | None = None, **more: Any) -> RedirectPolicy:
    arguments: dict[str, Any] = {
        "instance": "a",
        "addresses": ("10.77.0.20",),
        "proxy_uid": PROXY,
        "servers": (),
        **more,
    }
    return make_policy(settings or make_settings(), config or RedirectConfig(), **arguments)


def numbers(spans: tuple[Span, ...]) -> set[int]:
    return {number for first, last in spans for number in range(first, last + 1)}


# From settings and configuration.


def test_a_group_s_ports_and_the_cluster_s_networks_are_captured() -> None:
    policy = made(make_settings(ports=(Port("http", 8080), Port("db", 5432))))
    assert policy.inbound_ports == (8080, 5432)
    assert policy.networks == ("10.42.0.0/16",)
    assert policy.addresses == ("10.77.0.20",)
    assert policy.outbound and policy.inbound


@pytest.mark.parametrize(
    ("capture", "networks"), [("cluster", ("10.42.0.0/16",)), ("all", None), ("none", ())], ids=str
)
def test_the_capture_setting_selects_the_networks(capture: str, networks: tuple[str, ...] | None) -> None:
    assert made(make_settings(capture=capture)).networks == networks


@pytest.mark.parametrize(
    ("capture", "networks"), [("cluster", ("10.42.0.0/16",)), ("all", ("10.42.0.0/16",)), ("none", ())]
)
def test_addresses_outside_the_cluster_can_bypass_the_proxy(capture: str, networks: tuple[str, ...]) -> None:
    policy = made(make_settings(capture=capture), outside_open=True)
    assert (policy.networks, policy.outbound) == (networks, True)


@pytest.mark.parametrize(
    ("of_the_group", "closes"), [(None, False), ("audit", False), ("deny", True), ("cluster-unauthenticated", True)]
)
def test_other_addresses_are_closed_unless_the_default_policy_refuses_nobody(
    of_the_group: str | None, closes: bool
) -> None:
    assert made(make_settings(inbound_policy=of_the_group)).closes is closes


def test_a_network_with_host_bits_means_what_linkerd_reads() -> None:
    settings = make_settings()
    linkerd = replace(settings.linkerd, cluster_networks=("10.1.2.3/8", "fd00::1/8"))
    assert made(replace(settings, linkerd=linkerd)).networks == ("10.0.0.0/8", "fd00::/8")


def test_configured_exclusions_and_found_ones_are_both_in_the_policy() -> None:
    config = RedirectConfig(
        exclude_inbound_ports=(9100,),
        exclude_inbound_networks=("10.9.0.0/16",),
        exclude_inbound_interfaces=("eth1",),
        exclude_outbound_ports=((3300, 3399),),
        exclude_outbound_networks=("10.42.9.0/24",),
        exclude_outbound_interfaces=("wg0",),
        exclude_users=("backup",),
        exclude_groups=("ops",),
        capture_interfaces=("docker0",),
    )
    policy = made(config=config, exclusions=HostExclusions((34,), (4,), (2222,), ("10.42.0.77",)))
    assert policy == replace(
        made(),
        exempt_inbound_ports=(9100,),
        exempt_sources=("10.9.0.0/16",),
        exempt_inbound_interfaces=("eth1",),
        exempt_outbound_ports=((3300, 3399),),
        exempt_networks=("10.42.9.0/24",),
        exempt_outbound_interfaces=("wg0",),
        exempt_uids=(34,),
        exempt_gids=(4,),
        capture_interfaces=("docker0",),
        ssh_ports=(2222,),
        ssh_peers=("10.42.0.77",),
    )


def test_each_direction_can_bypass_a_dead_proxy_alone() -> None:
    assert made(outbound_open=True) == replace(made(), outbound=False)
    assert made(inbound_open=True) == replace(made(), inbound=False)


def test_an_address_is_written_as_the_kernel_writes_it() -> None:
    assert made(addresses=("FD00:0:0::1", "fd00::0009")).addresses == ("fd00::1", "fd00::9")


# What is never captured.

PORTS = some.lists(some.sampled_from([22, 4143]) | some.integers(1, 65535), max_size=20).map(tuple)


@given(inbound=PORTS)
def test_the_proxy_s_own_port_is_captured_with_the_group_s(inbound: tuple[int, ...]) -> None:
    assert numbers(replace(PLAIN, inbound_ports=inbound).captured_ports()) == {4143, *inbound}


@given(exempt=PORTS)
def test_every_port_can_be_excluded_but_the_proxy_s_own_inbound(exempt: tuple[int, ...]) -> None:
    policy = replace(PLAIN, exempt_inbound_ports=exempt, exempt_outbound_ports=exempt, ssh_ports=(2222,))
    assert numbers(policy.passed_inbound_ports()) == set(exempt) - {22, 2222, 4143}
    assert numbers(policy.passed_outbound_ports()) == set(exempt) - {22, 2222}


@given(ports=PORTS)
def test_port_22_is_an_ssh_port(ports: tuple[int, ...]) -> None:
    ports = tuple(port for port in ports if port != 4143)
    assert numbers(replace(PLAIN, ssh_ports=ports).ssh_server_ports()) == {22, *ports}


def test_an_ssh_server_on_the_proxy_s_port_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        made(exclusions=HostExclusions(ssh_ports=(4143,)))
    assert str(caught.value) == "port 4143: an SSH server listens there, where the mesh's proxies call"


NEVER = [
    "127.0.0.1",
    "169.254.169.254",  # metadata of most clouds
    "169.254.77.1",
    "168.63.129.16",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "fe80::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd77:ec1a:7e::1",
]


@pytest.mark.parametrize("address", NEVER)
def test_these_networks_are_captured_by_no_setting(address: str) -> None:
    assert any(ip_address(address) in ip_network(network) for network in NEVER_CAPTURED)


@given(
    networks=some.lists(some.ip_addresses(v=4).map(lambda ip: str(ip_network((ip, ip.packed[0] % 33), strict=False))))
)
def test_networks_inside_of_others_are_merged(networks: list[str]) -> None:
    merged = [ip_network(network) for network in collapsed(tuple(networks), 4)]
    assert all(not one.overlaps(other) for one, other in combinations(merged, 2))
    assert all(any(ip_network(network).subnet_of(one) for one in merged) for network in networks)  # type: ignore[arg-type]
    assert sum(one.num_addresses for one in merged) == sum(
        one.num_addresses
        for one in collapse_addresses(map(ip_network, networks))  # type: ignore[type-var, arg-type]
    )
    assert collapsed(tuple(networks), 6) == ()


# Every value is checked, from any source.

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an instance that is none": ({"instance": "c"}, "instance: a or b was expected, found 'c'"),
    "rules inside of an address": (
        {"addresses": ("10.0.0.1 } accept",)},
        "'10.0.0.1 } accept' does not appear to be an IPv4 or IPv6 address",
    ),
    "rules inside of an address's zone": (
        {"addresses": ("fd00::1%} accept",)},
        "address: fd00::1 was expected, found 'fd00::1%} accept'",
    ),
    "addresses of two families, of which a proxy listens on one": (
        {"addresses": ("10.77.0.20", "fd00::1")},
        "addresses: those of one family were expected, found 10.77.0.20, fd00::1",
    ),
    "rules inside of an interface's name": (
        {"exempt_inbound_interfaces": ('eth0" } accept',)},
        "interface: a name such as eth0 was expected, found 'eth0\" } accept'",
    ),
    "a range that runs backwards": (
        {"exempt_outbound_ports": ((90, 80),)},
        "ports: a range that begins with its lower end was expected, found 90-80",
    ),
    "a range that ends too high": (
        {"exempt_inbound_ports": ((80, 65536),)},
        "port: a number from 1 to 65535 was expected, found 65536",
    ),
    "an SSH port that is none": ({"ssh_ports": (0,)}, "port: a number from 1 to 65535 was expected, found 0"),
    "rules inside of an SSH peer": (
        {"ssh_peers": ("10.0.0.1 accept",)},
        "'10.0.0.1 accept' does not appear to be an IPv4 or IPv6 address",
    ),
    "a group below zero": ({"exempt_gids": (-1,)}, "group id: a number from 0 to 4294967294 was expected, found -1"),
    "an address that the kernel writes otherwise": (
        {"addresses": ("FD00::1",)},
        "address: fd00::1 was expected, found 'FD00::1'",
    ),
    "an address that nobody reaches": (
        {"addresses": ("127.0.0.1",)},
        "address: one that others reach this machine at was expected, found '127.0.0.1'",
    ),
    "a link-local address": (
        {"addresses": ("fe80::1",)},
        "address: one that others reach this machine at was expected, found 'fe80::1'",
    ),
    "no address at all": (
        {"addresses": ("0.0.0.0",)},
        "address: one that others reach this machine at was expected, found '0.0.0.0'",
    ),
    "rules inside of a server": (
        {"servers": (Server("10.0.0.1\n", 6443),)},
        "'10.0.0.1\\n' does not appear to be an IPv4 or IPv6 address",
    ),
    "a server's port": ({"servers": (Server("10.0.0.1", 0),)}, "port: a number from 1 to 65535 was expected, found 0"),
    "a network with host bits": ({"networks": ("10.0.0.1/8",)}, "10.0.0.1/8 has host bits set"),
    "a network without its length": (
        {"exempt_networks": ("10.0.0.1",)},
        "network: 10.0.0.1/32 was expected, found '10.0.0.1'",
    ),
    "a port too high": ({"inbound_ports": (65536,)}, "port: a number from 1 to 65535 was expected, found 65536"),
    "a port that is text": (
        {"exempt_inbound_ports": ("22 }",)},
        "port: a number from 1 to 65535 was expected, found '22 }'",
    ),
    "a port that is a truth": (
        {"exempt_outbound_ports": (True,)},
        "port: a number from 1 to 65535 was expected, found True",
    ),
    "a user below zero": ({"exempt_uids": (-1,)}, "user id: a number from 0 to 4294967294 was expected, found -1"),
    "the user id that means none": (
        {"proxy_uid": 2**32 - 1},
        "user id: a number from 0 to 4294967294 was expected, found 4294967295",
    ),
    "a proxy that is root": (
        {"proxy_uid": 0},
        "user id: the proxy cannot run as root, whose traffic would all pass by it",
    ),
    "a family that is none": ({"families": (5,)}, "family: 4 or 6 was expected, found 5"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_never_becomes_a_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(PLAIN, **change)
    assert str(caught.value) == message


@pytest.mark.parametrize("ports", [(True,), ((True, 5),)], ids=["a port", "a range"])
def test_true_is_refused_although_port_1_was_accepted_before(ports: tuple[Any, ...]) -> None:
    replace(PLAIN, exempt_outbound_ports=(1, (1, 5)))
    replace(PLAIN, exempt_outbound_ports=(1,))
    replace(PLAIN, exempt_outbound_ports=((1, 5),))
    with pytest.raises(ValueError, match="port: a number from 1 to 65535 was expected, found True"):
        replace(PLAIN, exempt_outbound_ports=ports)


@given(text=some.text(max_size=40))
def test_no_text_reaches_the_rules_unchecked(text: str) -> None:
    for field in ("addresses", "networks", "exempt_networks", "exempt_sources", "ssh_peers"):
        try:
            policy = replace(PLAIN, **{field: (text,)})
        except ValueError:
            continue
        assert set(text) <= set("0123456789abcdef.:/")
        assert text in render_ruleset(policy)
    for field in ("exempt_inbound_interfaces", "exempt_outbound_interfaces", "capture_interfaces"):
        try:
            policy = replace(PLAIN, **{field: (text,)})
        except ValueError:
            continue
        assert f'"{text}"' in render_ruleset(policy)
