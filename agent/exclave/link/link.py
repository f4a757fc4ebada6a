"""The private link `exclave0`, where proxies and DNS stub listen. It is made before them and removed after them.

An existing link of ours is adopted. A new one is a dummy link, else a bridge without ports, else addresses on lo.
IPv6 addresses are added if the link accepts them: a host may have disabled IPv6, for all links or for new ones.
It is removed on leave and stop, and stays on hand-over. `remove_link` needs no agent, as often as one likes.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.command import Finished, run_tool
from exclave.kit.tasks.nursery import shielded
from exclave.link.layout import LINK
from exclave.link.plan import (
    KINDS,
    MARK,
    Links,
    check_free,
    is_ours,
    link_addresses,
    missing_addresses,
    superfluous_addresses,
)
from exclave.milestones import Starting, Withdrawing, log_milestone

log = logging.getLogger(__name__)

REMOVAL_TIME = 100.0
"""Seconds for three runs of ip, which have 30 s each, and for their ends."""


@asynccontextmanager
async def open_link(endings: EndingSwitch) -> AsyncIterator[str]:
    """Have the link with all addresses while open; yield its name (`exclave0`, or `lo` if no link can be made).

    Raises HostError: no privilege, or name or addresses taken.
    """
    device = await _attach()
    log_milestone(Starting.LINK)
    try:
        yield device
    finally:
        if endings.value is not Ending.HAND_OVER:
            with shielded(REMOVAL_TIME):
                await remove_link()


async def remove_link() -> None:
    """Remove our link, and our addresses on lo. Raises HostError if that is not permitted."""
    links = await _links()
    if any(link["ifname"] == LINK and is_ours(link) for link in links):
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
    """Make the link, of the first kind that this kernel has; the device for the addresses."""
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
    _must(listed)
    links: Links = parse_json(listed.output)
    return links


async def _batch(lines: list[str]) -> Finished:
    return await run_tool("ip", "-batch", "-", stdin="\n".join([*lines, ""]).encode())


def _must(done: Finished) -> None:
    if done.status == 0:
        return
    if "not permitted" in done.errors:
        raise HostError(
            Fault.NO_PRIVILEGE,
            "making the link exclave0 is not permitted",
            "run as root, with the capability NET_ADMIN",
        )
    raise HostError(Fault.OCCUPIED, f"cannot set up the link {LINK}: {done.errors}", "exclave cleanup, then try again")
