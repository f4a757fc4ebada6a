"""What of the private link is ours, what is missing of it, and what others did to it."""

from typing import Any

import pytest

from exclave.errors import Fault, HostError
from exclave.link.plan import (
    MARK,
    Damage,
    check_free,
    find_damage,
    has_other_ipv6,
    is_ours,
    link_addresses,
    missing_addresses,
    superfluous_addresses,
)

ORDERED = link_addresses(with_ipv6=True)


def link(name: str, *addresses: str, mark: str = "02:00:00:00:00:01") -> dict[str, Any]:
    """A link as `ip -json address show` prints it."""
    infos = [{"local": address.split("/")[0], "prefixlen": int(address.split("/")[1])} for address in addresses]
    return {"ifname": name, "address": mark, "addr_info": infos}


def test_each_address_is_single_so_that_no_route_appears() -> None:
    assert link_addresses(with_ipv6=False) == (
        "169.254.77.1/32",
        "169.254.77.2/32",
        "169.254.77.3/32",
        "169.254.77.4/32",
    )
    assert ORDERED[4:] == ("fd77:ec1a:7e::1/128", "fd77:ec1a:7e::2/128", "fd77:ec1a:7e::3/128", "fd77:ec1a:7e::4/128")


def test_our_link_has_a_locally_administered_hardware_address() -> None:
    assert is_ours(link("exclave0", mark=MARK))
    assert not is_ours(link("exclave0"))
    assert not is_ours({"ifname": "exclave0"})
    assert int(MARK.split(":")[0], 16) & 0b11 == 0b10


FREE: dict[str, list[dict[str, Any]]] = {
    "a host without any of it": [link("lo", "127.0.0.1/8"), link("eth0", "10.0.0.5/24")],
    "our own link with its addresses": [link("exclave0", *ORDERED, mark=MARK)],
    "our addresses on lo, where no link can be made": [link("lo", *ORDERED)],
    "a neighbouring address": [link("eth0", "169.254.77.5/29")],
    "a link without an address of its own": [{"ifname": "tun0", "addr_info": [{"family": "inet"}]}, {"ifname": "ppp0"}],
}


@pytest.mark.parametrize("links", FREE.values(), ids=FREE)
def test_a_host_is_free_for_the_link(links: list[dict[str, Any]]) -> None:
    check_free(links, ORDERED)


def test_a_link_of_our_name_that_others_made_is_not_touched() -> None:
    with pytest.raises(HostError) as caught:
        check_free([link("exclave0")], ORDERED)
    assert caught.value.fault is Fault.OCCUPIED
    assert caught.value.message == "a link exclave0 exists that exclave did not make"
    assert caught.value.hint == "rename or remove it: ip link delete exclave0"


@pytest.mark.parametrize("address", ["169.254.77.3/32", "fd77:ec1a:7e::1/128"])
def test_our_address_on_another_link_is_reported_with_that_link(address: str) -> None:
    with pytest.raises(HostError) as caught:
        check_free([link("exclave0", mark=MARK), link("eth1", "10.0.0.1/8", address)], ORDERED)
    assert caught.value.fault is Fault.OCCUPIED
    assert caught.value.message == f"the address {address.split('/')[0]}, which exclave needs, is on eth1"
    assert caught.value.hint == f"remove it there: ip address delete {address} dev eth1"


def test_only_missing_addresses_are_added() -> None:
    links = [link("exclave0", "169.254.77.1/32", mark=MARK), link("lo", "169.254.77.2/32")]
    assert missing_addresses(links, "exclave0", ("169.254.77.1/32", "169.254.77.2/32", "fd77:ec1a:7e::1/128")) == [
        "address add 169.254.77.2/32 dev exclave0",
        "address add fd77:ec1a:7e::1/128 dev exclave0 nodad",
    ]
    assert missing_addresses([link("lo", *ORDERED)], "lo", ORDERED) == []


def test_only_our_addresses_are_removed_from_lo() -> None:
    links = [link("lo", "127.0.0.1/8", "169.254.77.4/32", "169.254.77.1/24"), link("exclave0", *ORDERED, mark=MARK)]
    assert superfluous_addresses(links, ORDERED) == ["address delete 169.254.77.4/32 dev lo"]


def up(name: str, *addresses: str, mark: str = MARK, **more: Any) -> dict[str, Any]:
    """A link that is up."""
    return {**link(name, *addresses, mark=mark), "flags": ["BROADCAST", "UP"], **more}


DAMAGES: dict[str, tuple[list[dict[str, Any]], Damage]] = {
    "nothing": ([up("eth0", mark="02::"), up("exclave0", *ORDERED)], Damage()),
    "deleted": ([up("eth0", mark="02::")], Damage("was deleted")),
    "down": ([{**up("exclave0", *ORDERED), "flags": ["BROADCAST"]}], Damage("was set down")),
    "one address": ([up("exclave0", *ORDERED[1:])], Damage("lost its address 169.254.77.1")),
    "all addresses": ([up("exclave0")], Damage("lost its address 169.254.77.1 and 7 more")),
    "renamed": (
        [up("lan7", *ORDERED)],
        Damage("was renamed to lan7", ("link set lan7 down", "link set lan7 name exclave0")),
    ),
    "in a bridge": (
        [up("exclave0", *ORDERED, master="br0")],
        Damage("was put into br0", ("link set exclave0 nomaster",)),
    ),
    "another hardware address": (
        [up("exclave0", *ORDERED, mark="02::")],
        Damage("got the hardware address 02::", (f"link set exclave0 address {MARK}",)),
    ),
    "down and without addresses": (
        [{**up("exclave0", *ORDERED[:4]), "flags": []}],
        Damage("was set down and lost its address fd77:ec1a:7e::1 and 3 more"),
    ),
}


@pytest.mark.parametrize(("links", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_what_others_did_to_the_link(links: list[dict[str, Any]], damage: Damage) -> None:
    assert find_damage(links, "exclave0", ORDERED) == damage


def test_what_others_did_to_our_addresses_on_lo() -> None:
    assert find_damage([up("lo", *ORDERED, mark="00::")], "lo", ORDERED) == Damage()
    assert find_damage([up("lo", *ORDERED[:-1], mark="00::")], "lo", ORDERED).text == "lost its address fd77:ec1a:7e::4"


def test_a_machine_uses_ipv6_if_another_link_has_a_global_address_of_it() -> None:
    ipv6 = {"family": "inet6", "local": "fd00::1", "prefixlen": 64, "scope": "global"}
    assert has_other_ipv6([{"ifname": "eth0", "addr_info": [ipv6]}])
    assert not has_other_ipv6([{"ifname": "eth0", "addr_info": [{**ipv6, "scope": "link"}]}, up("exclave0")])
