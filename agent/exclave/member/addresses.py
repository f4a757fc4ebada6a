"""This machine's address: the source of its route to the API server, or the configured one.

Nothing is sent to find it: the kernel chooses the source address of a connected datagram socket. A change counts when
two polls in a row find it, so a flapping route moves nothing. No route is no change.
"""

import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from exclave.cluster.endpoint import ServerAddress
from exclave.kit.host.procfs import local_addresses
from exclave.kit.tasks.latest import Latest
from exclave.member.address_choice import AddressFacts, choose_addresses
from exclave.member.record import MembershipRecord

log = logging.getLogger(__name__)

POLL_INTERVAL = 10.0
"""Seconds between two polls of the route."""

CONFIRM_INTERVAL = 2.0
"""The same after a poll that found another address."""

FIRST_INTERVAL = 1.0
"""The same while no address was ever found: nothing can start without one."""


@dataclass(frozen=True)
class Found:
    """An address and where it comes from."""

    address: str
    why: str

    def __str__(self) -> str:
        return f"address: [chosen={self.address} why={self.why}]"


def choose_address(override: str | None, sources: Sequence[Found], current: str = "") -> Found | None:
    """The configured address; else, of the usable sources, the current one, the first IPv4 one, the first IPv6 one."""
    if override is not None:
        return Found(override, "configured")
    # The current address stays while a route has it, so a second server or family moves nothing.
    usable = [found for found in sources if _is_usable(found.address)]
    return min(usable, key=lambda found: (found.address != current, ip_address(found.address).version), default=None)


def _is_usable(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    return not (found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast)


def find_address(servers: Sequence[ServerAddress], override: str | None, current: str = "") -> Found | None:
    """This machine's address now; None if there is no route to any server. `current`: the address so far."""
    if override is not None:
        return choose_address(override, ())
    sources = [found for server in servers if (found := _source(server)) is not None]
    return choose_address(None, sources, current)


def _source(server: ServerAddress) -> Found | None:
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((server.address, server.port))
            return Found(str(probe.getsockname()[0]), f"route to {server.address}")
    except OSError:
        return None  # no route, or no such family on this machine


def first_local(addresses: Sequence[str]) -> str:
    """The first that is on a link of this machine. Behind a NAT none is; then the first of all."""
    here = on_this_machine(addresses)
    return next((address for address in addresses if address in here), addresses[0])


def on_this_machine(addresses: Collection[str]) -> frozenset[str]:
    """Those that are on links of this machine."""
    return local_addresses().intersection(addresses)


async def wait_for_move(servers: Latest[tuple[ServerAddress, ...]], override: str | None, current: str) -> Found:
    """Wait until two polls in a row find another address than `current`; one poll is enough if there was none."""
    suspect = ""
    while True:
        await trio.sleep(CONFIRM_INTERVAL if suspect else POLL_INTERVAL if current else FIRST_INTERVAL)
        found = find_address(servers.value, override, current)
        if found is None or found.address == current:
            suspect = ""
        elif found.address == suspect or not current:
            log.info("%s, was %s", found, current or "none")
            return found
        else:
            suspect = found.address


def first_served(record: MembershipRecord, found: str) -> tuple[str, ...]:
    """The addresses to serve from the start, before the cluster has answered."""
    asked = {record.address, record.former, found} - {""}
    return choose_addresses(AddressFacts(record.address, found, record.former, here=on_this_machine(asked))).serve
