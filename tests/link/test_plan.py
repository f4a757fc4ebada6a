"""What is missing of the private link, and what prevents it: lines for `ip`, which are not run here."""

from typing import Any

import pytest

from exclave.errors import Fault, HostError
from exclave.link.plan import MARK, check_free, is_ours, link_addresses, missing_addresses, superfluous_addresses

EVERY = link_addresses(with_ipv6=True)


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
    assert EVERY[4:] == ("fd77:ec1a:7e::1/128", "fd77:ec1a:7e::2/128", "fd77:ec1a:7e::3/128", "fd77:ec1a:7e::4/128")


def test_our_link_has_a_locally_administered_hardware_address() -> None:
    assert is_ours(link("exclave0", mark=MARK))
    assert not is_ours(link("exclave0"))
    assert not is_ours({"ifname": "exclave0"})
    assert int(MARK.split(":")[0], 16) & 0b11 == 0b10


FREE: dict[str, list[dict[str, Any]]] = {
    "a host without any of it": [link("lo", "127.0.0.1/8"), link("eth0", "10.0.0.5/24")],
    "our own link with its addresses": [link("exclave0", *EVERY, mark=MARK)],
    "our addresses on lo, where no link can be made": [link("lo", *EVERY)],
    "a neighbouring address": [link("eth0", "169.254.77.5/29")],
    "a link without an address of its own": [{"ifname": "tun0", "addr_info": [{"family": "inet"}]}, {"ifname": "ppp0"}],
}


@pytest.mark.parametrize("links", FREE.values(), ids=FREE)
def test_what_is_free(links: list[dict[str, Any]]) -> None:
    check_free(links, EVERY)


def test_a_link_of_our_name_that_others_made_is_not_touched() -> None:
    with pytest.raises(HostError) as caught:
        check_free([link("exclave0")], EVERY)
    assert caught.value.fault is Fault.OCCUPIED
    assert caught.value.message == "a link exclave0 exists that exclave did not make"
    assert caught.value.hint == "rename or remove it: ip link delete exclave0"


@pytest.mark.parametrize("address", ["169.254.77.3/32", "fd77:ec1a:7e::1/128"])
def test_an_address_of_ours_elsewhere_is_named_with_its_link(address: str) -> None:
    with pytest.raises(HostError) as caught:
        check_free([link("exclave0", mark=MARK), link("eth1", "10.0.0.1/8", address)], EVERY)
    assert caught.value.fault is Fault.OCCUPIED
    assert caught.value.message == f"the address {address.split('/')[0]}, which exclave needs, is on eth1"
    assert caught.value.hint == f"remove it there: ip address delete {address} dev eth1"


def test_what_is_missing_is_added_and_nothing_else() -> None:
    links = [link("exclave0", "169.254.77.1/32", mark=MARK), link("lo", "169.254.77.2/32")]
    assert missing_addresses(links, "exclave0", ("169.254.77.1/32", "169.254.77.2/32", "fd77:ec1a:7e::1/128")) == [
        "address add 169.254.77.2/32 dev exclave0",
        "address add fd77:ec1a:7e::1/128 dev exclave0 nodad",
    ]
    assert missing_addresses([link("lo", *EVERY)], "lo", EVERY) == []


def test_only_our_addresses_are_removed_from_lo() -> None:
    links = [link("lo", "127.0.0.1/8", "169.254.77.4/32", "169.254.77.1/24"), link("exclave0", *EVERY, mark=MARK)]
    assert superfluous_addresses(links, EVERY) == ["address delete 169.254.77.4/32 dev lo"]
