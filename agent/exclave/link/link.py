"""The private link `exclave0`: where proxies and DNS stub listen. Made before them, removed after them.

Rules: made at most once, adopted if it is there; a dummy link, else a bridge without ports, else addresses on lo.
IPv6 addresses are added where the link takes them: a host may have switched IPv6 off, wholly or for new links.
Removed on leave and stop, left on hand over. `remove_link` works from cold, as often as one likes.
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.host.command import Finished, run_command
from exclave.kit.tasks.shield import shielded
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
from exclave.milestones import Starting, Withdrawing, tell

log = logging.getLogger(__name__)

REMOVAL_TIME = 100.0
"""Seconds for three runs of ip, which have 30 s each, and for their ends."""


@asynccontextmanager
async def open_link(endings: EndingSwitch) -> AsyncIterator[str]:
    """Have the link with all addresses; yield its name (`exclave0`, or `lo` where no link can be made).

    Raises HostError: no privilege, or name or addresses taken.
    """
    device = await _attach()
    tell(Starting.LINK)
    try:
        yield device
    finally:
        if endings.value is not Ending.HAND_OVER:
            with shielded(REMOVAL_TIME):
                await remove_link()


async def remove_link() -> None:
    """Remove link and addresses of ours, wherever they stand. Raises HostError if that is not permitted."""
    links = await _links()
    if any(link["ifname"] == LINK and is_ours(link) for link in links):
        _must(await _ip("link", "delete", LINK))
    left = superfluous_addresses(links, link_addresses(with_ipv6=True))
    if left:
        _must(await _batch(left))
    tell(Withdrawing.LINK)


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
        log.info("redirect: %s takes no IPv6 addresses and goes without: %s", device, added.errors)
    return device


async def _make() -> str:
    """Make the link, of the first kind that this kernel has."""
    for kind in KINDS:
        made = await _ip("link", "add", LINK, "address", MARK, "type", kind)
        if made.status == 0:
            # Where there is no IPv6 this fails, and there is no need of it.
            await _ip("link", "set", LINK, "addrgenmode", "none")
            return LINK
        if "not permitted" in made.errors:
            _must(made)
    return "lo"


async def _links() -> Links:
    listed = await _ip("-json", "address", "show")
    _must(listed)
    links: Links = json.loads(listed.output)
    return links


async def _batch(lines: list[str]) -> Finished:
    return await _ip("-batch", "-", stdin="\n".join([*lines, ""]).encode())


async def _ip(*arguments: str, stdin: bytes = b"") -> Finished:
    try:
        return await run_command(["ip", *arguments], stdin=stdin)
    except OSError as problem:
        raise HostError(
            Fault.NFT_UNUSABLE,
            f"the program ip cannot be run: {problem.strerror}",
            "install it: apt install iproute2",
        ) from None
    except trio.TooSlowError:
        raise HostError(
            Fault.NFT_UNUSABLE,
            "the program ip did not end within 30 s",
            "see what holds the kernel's links: ip monitor",
        ) from None


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
