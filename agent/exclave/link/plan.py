"""What is missing of the private link `exclave0`, as lines for `ip`. Pure.

The link is ours if it has our hardware address. A link of that name with another address, or our IP addresses on other
links, belong to somebody else and are not changed. Addresses are single (/32, /128), so that no route appears.
"""

from typing import Any

from exclave.errors import Fault, HostError
from exclave.link.layout import INSTANCES, LINK, Family, dns_address, instance_address, trial_address

MARK = "0a:ec:1a:7e:00:01"
"""A locally administered hardware address, which identifies our link: iproute2 6.1 lists no alias with addresses."""

KINDS = ("dummy", "bridge")
"""Kinds of link to try, in this order; without both, the addresses are on lo."""

Links = list[dict[str, Any]]
"""What `ip -json address show` prints."""


def link_addresses(*, with_ipv6: bool) -> tuple[str, ...]:
    """All our addresses with their prefix length."""
    families: tuple[Family, ...] = (4, 6) if with_ipv6 else (4,)
    return tuple(
        f"{address}/{32 if family == 4 else 128}"
        for family in families
        for address in (
            *(instance_address(instance, family) for instance in INSTANCES),
            dns_address(family),
            trial_address(family),
        )
    )


def is_ours(link: dict[str, Any]) -> bool:
    """Whether we made a link of our name."""
    return bool(link.get("address") == MARK)


def check_free(links: Links, addresses: tuple[str, ...]) -> None:
    """Raise HostError (taken) if somebody else has our link's name or one of our addresses."""
    for link in links:
        if link["ifname"] == LINK and not is_ours(link):
            raise HostError(
                Fault.OCCUPIED,
                f"a link {LINK} exists that exclave did not make",
                f"rename or remove it: ip link delete {LINK}",
            )
        if link["ifname"] in (LINK, "lo"):
            continue
        for address in _addresses_of(link):
            if address in addresses:
                raise HostError(
                    Fault.OCCUPIED,
                    f"the address {address.split('/')[0]}, which exclave needs, is on {link['ifname']}",
                    f"remove it there: ip address delete {address} dev {link['ifname']}",
                )


def missing_addresses(links: Links, device: str, addresses: tuple[str, ...]) -> list[str]:
    """Lines for `ip -batch` that add what `device` lacks. IPv6 without duplicate detection: nobody else is there."""
    present = {address for link in links if link["ifname"] == device for address in _addresses_of(link)}
    return [
        f"address add {address} dev {device}" + (" nodad" if ":" in address else "")
        for address in addresses
        if address not in present
    ]


def superfluous_addresses(links: Links, addresses: tuple[str, ...]) -> list[str]:
    """Lines for `ip -batch` that remove our addresses from lo."""
    present = {address for link in links if link["ifname"] == "lo" for address in _addresses_of(link)}
    return [f"address delete {address} dev lo" for address in addresses if address in present]


def _addresses_of(link: dict[str, Any]) -> list[str]:
    return [f"{info['local']}/{info['prefixlen']}" for info in link.get("addr_info", ()) if "local" in info]
