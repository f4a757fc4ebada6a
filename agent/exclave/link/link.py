"""The private link `exclave0`, where proxies and DNS stub listen. It opens before them and closes after them.

A link of that name without our hardware address, or our IP addresses on other links, are foreign and not changed.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.command import Finished, check_permitted, run_tool
from exclave.kit.tasks.nursery import shielded
from exclave.link.layout import INSTANCES, LINK, Family, dns_address, instance_address, trial_address
from exclave.milestones import Starting, Withdrawing, log_milestone

log = logging.getLogger(__name__)

MARK = "0a:ec:1a:7e:00:01"  # hardware address that identifies our link: iproute2 6.1 lists no alias

KINDS = ("dummy", "bridge")  # kinds of link to try, in this order; if both fail, the addresses are on lo

Links = list[dict[str, Any]]  # what `ip -json address show` prints

REMOVAL_TIME = 100.0  # seconds for three runs of ip, each with at most 30 s and its end


@asynccontextmanager
async def open_link(endings: EndingSwitch) -> AsyncIterator[str]:
    """Provide the link with all addresses while open; yield its name (`exclave0`, or `lo` if no link can be made).

    Raises HostError without privilege, or if name or addresses are in use.
    """
    device = await _attach()
    log_milestone(Starting.LINK)
    try:
        yield device
    finally:
        if endings.value is not Ending.HAND_OVER:
            with shielded(REMOVAL_TIME):
                await remove_link()


async def check_link() -> None:
    """Raise HostError if ip cannot be used, or others have the link's name or one of its addresses."""
    check_free(await _links(), link_addresses(with_ipv6=True))


async def find_link() -> list[str]:
    """The devices that have our addresses: our link, lo or none. Raises HostError."""
    links = await _links()
    found = [LINK] if _has_our_link(links) else []
    return [*found, "lo"] if superfluous_addresses(links, link_addresses(with_ipv6=True)) else found


async def remove_link() -> None:
    """Remove our link, and our addresses on lo. Needs no agent, may be repeated. Raises HostError."""
    links = await _links()
    if _has_our_link(links):
        _must(await run_tool("ip", "link", "delete", LINK))
    left = superfluous_addresses(links, link_addresses(with_ipv6=True))
    if left:
        _must(await _batch(left))
    log_milestone(Withdrawing.LINK)


async def _attach() -> str:
    every = link_addresses(with_ipv6=True)
    links = await _links()
    check_free(links, every)
    there = any(link["ifname"] == LINK for link in links)
    device = LINK if there else await _make()
    missing = missing_addresses(links, device, link_addresses(with_ipv6=False))
    if device == LINK:
        missing.append(f"link set {LINK} up")
    _must(await _batch(missing))
    added = await _batch([line for line in missing_addresses(links, device, every) if line not in missing])
    if added.status != 0:
        log.info("redirect: %s does not accept IPv6 addresses and has none: %s", device, added.errors)
    return device


async def _make() -> str:
    """Make the link, of the first kind that this kernel has; returns the device for the addresses."""
    for kind in KINDS:
        made = await run_tool("ip", "link", "add", LINK, "address", MARK, "type", kind)
        if made.status == 0:
            # It fails without IPv6, where it is not needed.
            await run_tool("ip", "link", "set", LINK, "addrgenmode", "none")
            return LINK
        if "not permitted" in made.errors:
            _must(made)
    return "lo"


async def _links() -> Links:
    listed = await run_tool("ip", "-json", "address", "show")
    check_permitted(listed, "listing links")
    try:
        links: Links = parse_json(listed.output)
    except ValueError:
        text, hint = f"ip lists no addresses as JSON: {listed.first_error}", "install iproute2: apt install iproute2"
        raise HostError(Fault.NFT_UNUSABLE, text, hint) from None
    return links


async def _batch(lines: list[str]) -> Finished:
    return await run_tool("ip", "-batch", "-", stdin="\n".join([*lines, ""]).encode())


def _must(done: Finished) -> None:
    if done.status == 0:
        return
    check_permitted(done, f"making the link {LINK}")
    raise HostError(Fault.OCCUPIED, f"cannot set up the link {LINK}: {done.errors}", "exclave cleanup, then try again")


# What is ours, and what is missing


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


def _has_our_link(links: Links) -> bool:
    return any(link["ifname"] == LINK and is_ours(link) for link in links)


def is_ours(link: dict[str, Any]) -> bool:
    """True if we made a link of our name."""
    return bool(link.get("address") == MARK)


def check_free(links: Links, addresses: tuple[str, ...]) -> None:
    """Raise HostError if another program has our link's name or one of our addresses."""
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
    """Lines for `ip -batch` that add missing addresses; IPv6 without duplicate detection: there are no neighbours."""
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
