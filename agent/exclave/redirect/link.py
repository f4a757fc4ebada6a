"""The private link `exclave0`: where proxies and DNS stub listen. Made before them, removed after them.

Rules: made at most once, adopted if it is there; a dummy link, else a bridge without ports, else addresses on lo.
Removed on leave and stop, left on hand over. `remove_link` works from cold, as often as one likes.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.command import Finished, run_command
from exclave.redirect.attachment import (
    KINDS,
    MARK,
    Links,
    check_free,
    is_ours,
    link_addresses,
    missing_addresses,
    superfluous_addresses,
)
from exclave.redirect.layout import LINK

_NO_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")


@asynccontextmanager
async def open_link(endings: EndingSwitch) -> AsyncIterator[str]:
    """Have the link with all addresses; yield its name (`exclave0`, or `lo` where no link can be made).

    Raises HostError: no privilege, or name or addresses taken.
    """
    device = await _attach()
    try:
        yield device
    finally:
        if endings.value is not Ending.HAND_OVER:
            with trio.CancelScope(shield=True):
                await remove_link()


async def remove_link() -> None:
    """Remove link and addresses of ours, wherever they stand. Raises HostError if that is not permitted."""
    links = await _links()
    if any(link["ifname"] == LINK and is_ours(link) for link in links):
        _must(await run_command(["ip", "link", "delete", LINK]))
    left = superfluous_addresses(links, link_addresses(with_ipv6=True))
    if left:
        await _batch(left)


async def _attach() -> str:
    addresses = link_addresses(with_ipv6=_has_ipv6())
    links = await _links()
    check_free(links, addresses)
    device = LINK
    if not any(link["ifname"] == LINK for link in links):
        device = await _make()
    lines = missing_addresses(links, device, addresses)
    if device == LINK:
        lines.append(f"link set {LINK} up")
    await _batch(lines)
    return device


async def _make() -> str:
    """Make the link, of the first kind that this kernel has."""
    for kind in KINDS:
        made = await run_command(["ip", "link", "add", LINK, "address", MARK, "type", kind])
        if made.status == 0:
            _must(await run_command(["ip", "link", "set", LINK, "addrgenmode", "none"]))
            return LINK
        if "not permitted" in made.errors:
            _must(made)
    return "lo"


async def _links() -> Links:
    listed = await run_command(["ip", "-json", "address", "show"])
    _must(listed)
    links: Links = json.loads(listed.output)
    return links


async def _batch(lines: list[str]) -> None:
    _must(await run_command(["ip", "-batch", "-"], stdin="\n".join([*lines, ""]).encode()))


def _has_ipv6() -> bool:
    return _NO_IPV6.exists() and _NO_IPV6.read_text().strip() == "0"


def _must(done: Finished) -> None:
    if done.status == 0:
        return
    if "not permitted" in done.errors:
        raise HostError(
            Fault.NO_PRIVILEGE,
            "making the link exclave0 is not permitted",
            "run as root, with the capability NET_ADMIN",
        )
    raise HostError(Fault.TAKEN, f"cannot set up the link {LINK}: {done.errors}", "exclave cleanup, then try again")
