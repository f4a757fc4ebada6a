"""This machine's address: which one it has, which ones it serves, and which one it claims in the cluster.

Every address that pods may use must be served. So a new one is served first, by a swap, and claimed then.
"""

import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import trio

from exclave.cluster.endpoint import ServerAddress
from exclave.kit.host.procfs import local_addresses
from exclave.kit.tasks.latest import Latest
from exclave.member.record import MembershipRecord
from exclave.member.write_limit import PAUSES

SLOW = 15.0  # seconds after which an unfinished move is reported

log = logging.getLogger(__name__)

POLL_INTERVAL = 10.0  # seconds between two polls of the route
CONFIRM_INTERVAL = 2.0  # the same after a poll with another address
FIRST_INTERVAL = 1.0  # the same while no address was ever found: nothing can start without one


@dataclass(frozen=True)
class AddressFacts:
    """The facts of now. An empty string means "no address"."""

    claimed: str  # in the Member, or going to be patched into it
    found: str  # source of the route to the API server
    former: str = ""  # claimed before; pods may still use it
    refused: str = ""  # by the cluster
    here: frozenset[str] = frozenset()  # those of them on a link of this machine
    served: frozenset[str] = frozenset()  # those that the kernel's rules redirect to a proxy that accepts them
    networks: tuple[str, ...] = ()  # of the group
    listed: bool | None = None  # the ExternalWorkload has ports; None while unknown
    is_published: bool = False  # the Member has the claimed address
    is_registered: bool = True  # the controller has accepted it


@dataclass(frozen=True)
class AddressProblem:
    """The reason why pods use another address than this machine's, and what to do about it."""

    why: str
    hint: str
    is_overwritten: bool = False  # by somebody else, in the Member


@dataclass(frozen=True)
class AddressChoice:
    """The decision about addresses. An empty string means "none"."""

    serve: tuple[str, ...] = ()
    claim: str = ""  # now
    revert: bool = False  # claim the former one again
    walk_back: bool = False  # close the data path and open it again
    moving_to: str = ""  # to claim once it is served
    problem: AddressProblem | None = None


def choose_addresses(facts: AddressFacts) -> AddressChoice:
    """The choice for these facts."""
    if facts.former in facts.here and facts.is_published and not facts.is_registered:  # the cluster refused it
        return AddressChoice((facts.former,), revert=True)
    if facts.found in ("", facts.claimed):
        return AddressChoice(_served_with(facts, facts.claimed))
    if (problem := _problem_of(facts)) is not None:
        return AddressChoice(_served_with(facts, facts.claimed), problem=problem)
    # A proxy accepts inbound traffic of one family, so an address of the other cannot be served beside a listed one.
    if facts.claimed in facts.here and not _is_alike(facts.found, facts.claimed) and facts.listed is not False:
        return AddressChoice(_served_with(facts, facts.claimed), walk_back=bool(facts.listed))
    # Without listed ports no pod uses the claimed address, so the new one needs no swap first.
    is_due = not facts.claimed or facts.listed is False or facts.found in facts.served
    return AddressChoice(
        _served_with(facts, facts.found), claim=facts.found if is_due else "", moving_to="" if is_due else facts.found
    )


def slow_move_problem(facts: AddressFacts, seconds: float) -> AddressProblem | None:
    """The problem of an address that was found `seconds` ago and is not claimed yet; None while that is no problem."""
    if seconds < SLOW:
        return None
    return AddressProblem(
        f"{facts.found} is this machine's address now; pods still use {facts.claimed}, since no proxy serves the "
        f"new one yet",
        "see why no swap is made: exclave status; exclave proxy swap tries now",
    )


def conflict_problem(claimed: str, other: str) -> AddressProblem:
    """The problem of an address that somebody else replaces by `other` again and again."""
    return AddressProblem(
        f"{claimed} is this machine's address, and somebody else replaces it by {other} in the Member again and again: "
        f"it is written again with growing pauses, up to {PAUSES.most:.0f} s",
        "find the machine with the other address, probably a copy of this one: have the member evicted, and join each "
        "with a token of its own",
        is_overwritten=True,
    )


def _problem_of(facts: AddressFacts) -> AddressProblem | None:
    beginning = f"{facts.found} is this machine's address now, and {facts.claimed or 'none'} stays the one in the mesh"
    override = "or name the address by which pods reach this machine: member.address in /etc/exclave/config.toml"
    if facts.networks and not _lies_within(facts.found, facts.networks):
        return AddressProblem(
            f"{beginning}: it lies in none of the group's networks: {', '.join(facts.networks)}",
            f"have an admin add its network to the group, {override}",
        )
    if facts.found == facts.refused and facts.claimed in facts.here:
        return AddressProblem(
            f"{beginning}: the cluster has refused it, since a living member has it",
            f"have that one evicted if it is gone, then systemctl reload exclave; {override}",
        )
    return None


def _served_with(facts: AddressFacts, first: str) -> tuple[str, ...]:
    """`first`, and the addresses of its family on this machine that pods may still use."""
    others = [one for one in (facts.claimed, facts.former) if one in facts.here and _is_alike(one, first)]
    return tuple(dict.fromkeys((first, *others))) if first else ()


def _is_alike(one: str, other: str) -> bool:
    return bool(one and other) and ip_address(one).version == ip_address(other).version


def _lies_within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        return any(ip_address(address) in ip_network(network) for network in networks)
    except ValueError:
        return True  # a mistake in the group, which the controller reports


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
            probe.connect((server.address, server.port))  # sends nothing; the kernel chooses the source address
            return Found(str(probe.getsockname()[0]), f"route to {server.address}")
    except OSError:
        return None  # no route, which is no change, or no such family on this machine


def first_local(addresses: Sequence[str]) -> str:
    """The first that is on a link of this machine. Behind a NAT none is; then the first of all."""
    here = on_this_machine(addresses)
    return next((address for address in addresses if address in here), addresses[0])


def on_this_machine(addresses: Collection[str]) -> frozenset[str]:
    """Those on links of this machine."""
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
