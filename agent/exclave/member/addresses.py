"""The one address this machine is reached by: its own end of the route to the API server, or the configured one.

Rules: nothing is sent to find it (a connected datagram socket tells the source address); the one that we have stays for
as long as a route has it, so that a second family or server moves nothing; then IPv4 is preferred, since a member
registers one family; the choice leaves a trace. A change counts when it was seen twice in a row, so that a route that
flaps moves nothing; no route at all is no change.
"""

import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from exclave.cluster.endpoint import ServerAddress
from exclave.kit.host.interfaces import local_addresses
from exclave.kit.tasks.latest import Latest
from exclave.member.address_choice import Facts, decide
from exclave.member.record import MembershipRecord

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0
"""Seconds between two looks at the route."""

LOOK_AGAIN = 2.0
"""The same where the last look has found another address."""

LOOK_FIRST = 1.0
"""The same while there never was one: nothing can start without."""


@dataclass(frozen=True)
class Found:
    """An address and where it comes from."""

    address: str
    why: str

    def __str__(self) -> str:
        return f"address: [chosen={self.address} why={self.why}]"


def choose_address(override: str | None, sources: Sequence[Found], current: str = "") -> Found | None:
    """The configured address; else the current one, the first IPv4 one, the first IPv6 one of usable sources."""
    if override is not None:
        return Found(override, "configured")
    usable = [found for found in sources if _is_usable(found.address)]
    return min(usable, key=lambda found: (found.address != current, ip_address(found.address).version), default=None)


def _is_usable(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    return not (found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast)


def find_address(servers: Sequence[ServerAddress], override: str | None, current: str = "") -> Found | None:
    """This machine's address now, None if there is no route to any server; `current` is the one it has so far."""
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


def find_local(addresses: Sequence[str]) -> str:
    """The first that stands on a link of this machine; the first of all if none does. Behind a NAT, the address that
    pods know is not this machine's."""
    here = find_here(addresses)
    return next((address for address in addresses if address in here), addresses[0])


def find_here(addresses: Collection[str]) -> frozenset[str]:
    """Those that stand on links of this machine."""
    return local_addresses().intersection(addresses)


async def wait_moved(servers: Latest[tuple[ServerAddress, ...]], override: str | None, current: str) -> Found:
    """Wait until this machine has another address than `current`, seen twice in a row; the first one if it had none."""
    suspect = ""
    while True:
        await trio.sleep(LOOK_AGAIN if suspect else LOOK_EVERY if current else LOOK_FIRST)
        found = find_address(servers.value, override, current)
        if found is None or found.address == current:
            suspect = ""
        elif found.address == suspect or not current:
            log.info("%s, was %s", found, current or "none")
            return found
        else:
            suspect = found.address


def first_carried(record: MembershipRecord, found: str) -> tuple[str, ...]:
    """The addresses to serve from the start, when nothing is known of the cluster yet."""
    asked = {record.address, record.former, found} - {""}
    return decide(Facts(record.address, found, record.former, here=find_here(asked))).carried
