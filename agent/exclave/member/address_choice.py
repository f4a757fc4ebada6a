"""Which addresses this machine serves and which one it claims in the cluster. Pure.

Every address that pods may use must be served. So a new address is served first, by a swap, then claimed; the former
one is served as long as it may be listed.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

SLOW = 15.0
"""Seconds after which an unfinished move is reported."""


@dataclass(frozen=True)
class AddressFacts:
    """The facts of now. An empty string means "no address".

    `claimed`: in the Member, or about to be patched into it; `former`: claimed before, pods may still use it; `found`:
    the address of the route to the API server; `refused`: the cluster refused it. `here`: those of them on a link of
    this machine; `served`: those that the kernel's rules hand to a proxy that accepts them. `listed`: the
    ExternalWorkload has ports, None while unknown. `is_published`: the Member has the claimed address; `is_registered`:
    the controller has accepted it.
    """

    claimed: str
    found: str
    former: str = ""
    refused: str = ""
    here: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    listed: bool | None = None
    is_published: bool = False
    is_registered: bool = True


@dataclass(frozen=True)
class AddressProblem:
    """Why the claimed address stays although this machine has another one, and what to do about it."""

    why: str
    hint: str


@dataclass(frozen=True)
class AddressChoice:
    """`serve`: addresses to serve; `claim`: the address to claim now; `revert`: claim the former one again.

    `walk_back`: take the data path down and start it again; `moving_to`: the address to claim once it is served.
    """

    serve: tuple[str, ...] = ()
    claim: str = ""
    revert: bool = False
    walk_back: bool = False
    moving_to: str = ""
    problem: AddressProblem | None = None


def choose_addresses(facts: AddressFacts) -> AddressChoice:
    """What to do now."""
    if facts.former in facts.here and facts.is_published and not facts.is_registered:  # the cluster refused it
        return AddressChoice((facts.former,), revert=True)
    if facts.found in ("", facts.claimed):
        return AddressChoice(_served_with(facts, facts.claimed))
    problem = _problem_of(facts)
    if problem is not None:
        return AddressChoice(_served_with(facts, facts.claimed), problem=problem)
    # A proxy accepts inbound traffic of one family, so an address of the other cannot be served beside a listed one.
    if facts.claimed in facts.here and not _is_alike(facts.found, facts.claimed) and facts.listed is not False:
        return AddressChoice(_served_with(facts, facts.claimed), walk_back=bool(facts.listed))
    # Without listed ports no pod uses the claimed address, so the new one needs no swap first.
    is_due = not facts.claimed or facts.listed is False or facts.found in facts.served
    return AddressChoice(
        _served_with(facts, facts.found),
        claim=facts.found if is_due else "",
        moving_to="" if is_due else facts.found,
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
