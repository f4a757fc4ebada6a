"""What of the private link is ours, what of it is missing, and what was done to it. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from exclave.errors import Fault, HostError
from exclave.link.layout import INSTANCES, LINK, Family, dns_address, instance_address, trial_address

MARK = "0a:ec:1a:7e:00:01"  # hardware address that identifies our link: iproute2 6.1 lists no alias

Links = list[dict[str, Any]]  # what `ip -json address show` prints


def link_addresses(*, with_ipv6: bool) -> tuple[str, ...]:
    """All our addresses, each as a single one (/32, /128), so that no route appears. IPv6 may be disabled on a host."""
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
    """True if we made the link, under whatever name it is now."""
    if link.get("address") == MARK:
        return True
    ours = link_addresses(with_ipv6=True)
    return link["ifname"] == LINK and any(address in ours for address in _addresses_of(link))


def names_of_ours(links: Links) -> list[str]:
    """The names of the links that we made: normally one or none."""
    return [link["ifname"] for link in links if link["ifname"] != "lo" and is_ours(link)]


def check_free(links: Links, addresses: tuple[str, ...]) -> None:
    """Raise HostError if another program has our link's name or one of our addresses."""
    for link in links:
        if link["ifname"] == LINK and not is_ours(link):
            raise HostError(
                Fault.OCCUPIED,
                f"a link {LINK} exists that exclave did not make",
                f"rename or remove it: ip link delete {LINK}",
            )
        if link["ifname"] == "lo" or is_ours(link):
            continue
        for address in _addresses_of(link):
            if address in addresses:
                raise HostError(
                    Fault.OCCUPIED,
                    f"the address {address.split('/')[0]}, which exclave needs, is on {link['ifname']}",
                    f"remove it there: ip address delete {address} dev {link['ifname']}",
                )


def missing_addresses(links: Links, device: str, addresses: tuple[str, ...]) -> list[str]:
    """Lines for `ip -batch` that add missing addresses; IPv6 without duplicate detection: there are no neighbours."""
    present = {address for link in links if link["ifname"] == device for address in _addresses_of(link)}
    return [
        f"address add {address} dev {device}" + (" nodad" if ":" in address else "")
        for address in addresses
        if address not in present
    ]


@dataclass(frozen=True)
class Damage:
    """What others did to the link. `text`: for a person, "" for nothing; `lines`: undo it, but for the addresses."""

    text: str = ""
    lines: tuple[str, ...] = ()


def find_damage(links: Links, device: str, addresses: Collection[str]) -> Damage:
    """What others did to the link on `device` (our link or lo), which had these addresses."""
    ours = [link for link in links if is_ours(link) or link["ifname"] == device == "lo"]
    found = next((link for link in ours if link["ifname"] == device), ours[0] if ours else None)
    if found is None:
        return Damage("was deleted")
    name, texts, lines = found["ifname"], [], []
    if name != device:
        texts.append(f"was renamed to {name}")
        lines += [f"link set {name} down", f"link set {name} name {device}"]  # older kernels rename none that is up
    if device == LINK and found.get("address") != MARK:
        texts.append(f"got the hardware address {found.get('address')}")
        lines.append(f"link set {device} address {MARK}")
    if "master" in found:
        texts.append(f"was put into {found['master']}")
        lines.append(f"link set {device} nomaster")
    if "UP" not in found.get("flags", ()):
        texts.append("was set down")
    lost = [address.split("/")[0] for address in addresses if address not in _addresses_of(found)]
    if lost:
        texts.append("lost its address " + lost[0] + (f" and {len(lost) - 1} more" if len(lost) > 1 else ""))
    return Damage(" and ".join(texts), tuple(lines))


def has_other_ipv6(links: Links) -> bool:
    """True if another link has an IPv6 address that is more than link-local: this machine uses IPv6."""
    return any(
        info.get("family") == "inet6" and info.get("scope") == "global"
        for link in links
        if not is_ours(link)
        for info in link.get("addr_info", ())
    )


def superfluous_addresses(links: Links, addresses: tuple[str, ...]) -> list[str]:
    """Lines for `ip -batch` that remove our addresses from lo."""
    present = {address for link in links if link["ifname"] == "lo" for address in _addresses_of(link)}
    return [f"address delete {address} dev lo" for address in addresses if address in present]


def _addresses_of(link: dict[str, Any]) -> list[str]:
    return [f"{info['local']}/{info['prefixlen']}" for info in link.get("addr_info", ()) if "local" in info]
