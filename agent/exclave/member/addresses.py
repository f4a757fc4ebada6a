"""The one address this machine is reached by: its own end of the route to the API server, or the configured one.

Rules: nothing is sent to find it (a connected datagram socket tells the source address); IPv4 is preferred, since a
member registers one family; the choice leaves a trace. A change counts when it was seen twice in a row, so that a
route that flaps moves nothing; no route at all is no change.
"""

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import psutil
import trio

from exclave.cluster.endpoint import host_and_port

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0
"""Seconds between two looks at the route."""

LOOK_FIRST = 1.0
"""The same while there never was one: nothing can start without."""


@dataclass(frozen=True)
class Found:
    """An address and where it comes from."""

    address: str
    why: str

    def __str__(self) -> str:
        return f"address: [chosen={self.address} why={self.why}]"


def choose_address(override: str | None, sources: Sequence[Found]) -> Found | None:
    """The configured address; else the first usable IPv4 source of a route, else the first usable IPv6 one."""
    if override is not None:
        return Found(override, "configured")
    usable = [found for found in sources if _is_usable(found.address)]
    return min(usable, key=lambda found: ip_address(found.address).version, default=None)


def _is_usable(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    return not (found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast)


async def find_address(servers: Sequence[str], override: str | None) -> Found | None:
    """This machine's address now, None if there is no route to any server."""
    if override is not None:
        return choose_address(override, ())
    sources: list[Found] = []
    for server in servers:
        sources += await _sources(server)
    return choose_address(None, sources)


async def _sources(server: str) -> list[Found]:
    host, port = host_and_port(server)
    try:
        targets = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return []  # the name is not resolved now
    found = []
    for family, _, _, _, address in targets:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(address)
            except OSError:
                continue  # no route in this family
            source = str(probe.getsockname()[0])
        found.append(Found(source, f"route to {address[0]}"))
    return found


def find_local(addresses: Sequence[str]) -> str:
    """The first that stands on a link of this machine; the first of all if none does. Behind a NAT, the address that
    pods know is not this machine's."""
    own = {found.address.partition("%")[0] for link in psutil.net_if_addrs().values() for found in link}
    return next((address for address in addresses if address in own), addresses[0])


async def wait_moved(servers: Sequence[str], override: str | None, current: str | None) -> Found:
    """Wait until this machine has another address than `current`, seen twice in a row; the first one if it had none."""
    suspect: str | None = None
    while True:
        await trio.sleep(LOOK_EVERY if current is not None else LOOK_FIRST)
        found = await find_address(servers, override)
        if found is None or found.address == current:
            suspect = None
        elif found.address == suspect or current is None:
            log.info("%s, was %s", found, current or "none")
            return found
        else:
            suspect = found.address
