"""Wide use, with real connections: exclusions, several ports and addresses, one direction, both families, oneself.

Each test loads what a golden file shows, and asks the kernel who gets a connection.
"""

from dataclasses import replace
from typing import Any

import pytest

from .lab import CLUSTER4, CLUSTER6, PEER6, VM4, VM6, CallResult, open_lab, open_rules
from .policies import PLAIN

POLICY = replace(PLAIN, addresses=(VM4,), networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))

APPLICATION, PEER = CallResult("application"), CallResult("peer")


def by_proxy(address: str, port: int) -> CallResult:
    """The proxy's answer, with the original destination."""
    return CallResult("proxy a", (address, port))


INBOUND: dict[str, tuple[dict[str, Any], dict[tuple[str, int], bool]]] = {
    "a port and a range": (
        {"inbound_ports": (8080, 9100, 9150), "exempt_inbound_ports": (8080, (9140, 9160))},
        {(VM4, 8080): False, (VM4, 9100): True, (VM4, 9150): False},
    ),
    "a range around the proxy's own port": (
        {"exempt_inbound_ports": ((4000, 9000),)},
        {(VM4, 4143): True, (VM4, 8080): False},
    ),
    "the network that a caller is in": (
        {"exempt_sources": ("10.77.0.0/24",)},
        {(VM4, 8080): False, (VM4, 4143): False},
    ),
    "another network": ({"exempt_sources": ("10.78.0.0/24",)}, {(VM4, 8080): True}),
    "the interface that it comes by": ({"exempt_inbound_interfaces": ("eth0",)}, {(VM4, 8080): False}),
    "another interface": ({"exempt_inbound_interfaces": ("eth1",)}, {(VM4, 8080): True}),
    "several ports, a range of them": (
        {"inbound_ports": (5432, 8080, 8081, 8082)},
        {(VM4, 5432): True, (VM4, 8080): True, (VM4, 8082): True, (VM4, 8083): False},
    ),
    "outbound only": ({"inbound_ports": ()}, {(VM4, 8080): False, (VM4, 4143): True}),
    "an IPv6 member": ({"addresses": (VM6,)}, {(VM6, 8080): True, (VM6, 4143): True, (VM4, 8080): False}),
    "an IPv6 member that excludes its caller": (
        {"addresses": (VM6,), "exempt_sources": ("fd00:77::/64",)},
        {(VM6, 8080): False},
    ),
    "a VIP": (
        {"addresses": (VM4, "10.77.0.100")},
        {(VM4, 8080): True, ("10.77.0.100", 8080): True, ("10.77.0.101", 8080): False},
    ),
}


async def test_connections_from_outside_reach_the_proxy_or_bypass_it() -> None:
    async with open_lab() as lab:
        for address in ("10.77.0.100/24", "10.77.0.101/24"):
            await lab.vm.add_address(address)
        async with open_rules(lab, POLICY):
            places = {f"{address}/{port}" for _, calls in INBOUND.values() for address, port in calls}
            lab.listen(lab.vm, "application", *places)
            for what, (change, calls) in INBOUND.items():
                await lab.load(replace(POLICY, **change))
                for (address, port), is_captured in calls.items():
                    expected = by_proxy(address, port) if is_captured else APPLICATION
                    assert await lab.call(lab.peer, address, port) == expected, f"{what}: {address}:{port}"


OUTBOUND: dict[str, tuple[dict[str, Any], dict[tuple[str, int, int], bool]]] = {
    "a port and a range": (
        {"exempt_outbound_ports": (3306, (8000, 8100))},
        {(CLUSTER4, 3306, 0): False, (CLUSTER4, 8050, 0): False, (CLUSTER4, 8101, 0): True, (CLUSTER6, 8050, 0): False},
    ),
    "a network of each family": (
        {"exempt_networks": ("10.42.0.0/24", "fd00:42::/64")},
        {(CLUSTER4, 80, 0): False, (CLUSTER6, 80, 0): False, ("10.42.9.9", 80, 0): True},
    ),
    "a user": ({"exempt_uids": (4242,)}, {(CLUSTER4, 80, 4242): False, (CLUSTER4, 80, 4243): True}),
    "a group": (
        {"exempt_gids": (4242,)},
        {(CLUSTER4, 80, 4242): False, (CLUSTER6, 80, 4242): False, (CLUSTER4, 80, 0): True},
    ),
    "the interface that it leaves by": ({"exempt_outbound_interfaces": ("eth0",)}, {(CLUSTER4, 80, 0): False}),
    "another interface": ({"exempt_outbound_interfaces": ("eth1",)}, {(CLUSTER4, 80, 0): True}),
    "inbound only": ({"networks": ()}, {(CLUSTER4, 80, 0): False, (CLUSTER6, 80, 0): False}),
    "an IPv4 member goes out in both families": (
        {},
        {(CLUSTER4, 80, 0): True, (CLUSTER6, 80, 0): True, (PEER6, 80, 0): False},
    ),
    "an IPv6 member does, too": ({"addresses": (VM6,)}, {(CLUSTER4, 80, 0): True, (CLUSTER6, 80, 0): True}),
    "a proxy without IPv6 is handed none": ({"families": (4,)}, {(CLUSTER4, 80, 0): True, (CLUSTER6, 80, 0): False}),
}


async def test_connections_of_local_programs_reach_the_proxy_or_bypass_it() -> None:
    async with open_lab() as lab:
        await lab.peer.add_address("10.42.9.9/16")
        async with open_rules(lab, POLICY):
            places = {f"{address}/{port}" for _, calls in OUTBOUND.values() for address, port, _ in calls}
            lab.listen(lab.peer, "peer", *places)
            for what, (change, calls) in OUTBOUND.items():
                await lab.load(replace(POLICY, **change))
                for (address, port, uid), is_captured in calls.items():
                    expected = by_proxy(address, port) if is_captured else PEER
                    assert await lab.call(lab.vm, address, port, uid=uid) == expected, (
                        f"{what}: {address}:{port} by {uid}"
                    )


async def test_exclusions_by_interface_work_in_both_directions() -> None:
    policy = replace(
        POLICY, addresses=(VM4,), exempt_inbound_interfaces=("eth1",), exempt_outbound_interfaces=("eth1",)
    )
    async with open_lab() as lab:
        await lab.wire(lab.vm, "eth1", "10.42.200.1/24", lab.peer, "eth1", "10.42.200.2/24")
        await lab.peer.must("ip", "route", "add", f"{VM4}/32", "via", "10.42.200.1", "src", "10.42.200.2")
        async with open_rules(lab, policy):
            lab.listen(lab.vm, "application", f"{VM4}/8080")
            lab.listen(lab.peer, "peer", "10.42.200.2/80")
            assert await lab.call(lab.vm, "10.42.200.2", 80) == PEER
            assert await lab.call(lab.vm, CLUSTER4, 80) == by_proxy(CLUSTER4, 80)
            assert await lab.call(lab.peer, VM4, 8080) == APPLICATION
            await lab.peer.must("ip", "route", "delete", f"{VM4}/32")
            assert await lab.call(lab.peer, VM4, 8080) == by_proxy(VM4, 8080)


async def test_behind_a_nat_connections_to_the_inner_address_are_captured() -> None:
    outside = "203.0.113.7"
    chain = "add table ip nat; add chain ip nat o { type nat hook output priority -100; }"
    nat = f"{chain}; add rule ip nat o ip daddr {outside} dnat to {VM4}"
    async with open_lab() as lab, open_rules(lab, replace(POLICY, addresses=(outside, VM4))):
        await lab.peer.must("ip", "route", "add", "203.0.113.0/24", "via", VM4)
        await lab.peer.must("nft", nat)
        assert await lab.call(lab.peer, outside, 8080) == by_proxy(VM4, 8080)  # so the proxy needs both
        await lab.load(replace(POLICY, addresses=(outside,)))
        assert (await lab.call(lab.peer, outside, 8080)).who == "ConnectionRefusedError"  # what forgetting it means


@pytest.mark.parametrize("networks", [("10.0.0.0/8",), None], ids=["inside of the cluster's networks", "all"])
async def test_connections_to_this_machine_itself_are_as_without_exclave(networks: tuple[str, ...] | None) -> None:
    """It goes over lo, whichever own address is called; and the proxy reaches this machine, too."""
    async with open_lab() as lab:
        await lab.vm.add_address("10.77.0.100/24")
        async with open_rules(lab, replace(POLICY, addresses=(VM4, "10.77.0.100"), networks=networks)):
            lab.listen(lab.vm, "application", f"{VM4}/8080", "10.77.0.100/8080", "127.0.0.1/8080")
            for address in (VM4, "10.77.0.100", "127.0.0.1"):
                for uid in (0, 4242, POLICY.proxy_uid):
                    assert await lab.call(lab.vm, address, 8080, uid=uid) == APPLICATION, f"{address} by {uid}"


async def test_a_vip_on_another_machine_is_captured_outbound() -> None:
    async with open_lab() as lab:
        await lab.peer.add_address("10.42.0.100/16")
        async with open_rules(lab, replace(POLICY, addresses=(VM4, "10.42.0.100"))):
            assert await lab.call(lab.vm, "10.42.0.100", 8080) == by_proxy("10.42.0.100", 8080)
