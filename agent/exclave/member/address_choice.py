"""Which addresses this machine serves, which one it claims, and which it leaves behind. Pure: facts in, a decision out.

Rules: what pods are told of must be served. So another address is first served beside the one that is claimed, by a
swap of the proxy and its rules; only then is it claimed, which is when the Member says it and the controller writes it
into the ExternalWorkload; and the former one is served for as long as pods may still be told of it, if this machine
has it still. An address that the group's networks do not hold is never claimed, and one that was refused is given up
for the former one, if that is still here; both are told. Where nothing is listed there is nobody to be careful of, and
the new address is claimed at once.
A proxy takes inbound traffic of one family. So an address of the other one cannot be served beside the claimed one:
while that is still here and listed, walking back is the only way that leaves no port without a proxy.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

SLOW = 15.0
"""Seconds after which a move that has not come to its end is told."""


@dataclass(frozen=True)
class Facts:
    """What holds now; an address that there is none of is "".

    `claimed` is what the Member says or is about to, `former` what it said before and pods may still be told of;
    `found` is where this machine is reached now; `refused` was claimed in vain. `here` are those of them that stand on
    a link, `served` those that the kernel's rules hand to a proxy that accepts them. `listed`: pods are told of ports;
    None while nobody knows. `is_said`: the Member says the claimed one, `is_registered`: the cluster lets it have that.
    """

    claimed: str
    found: str
    former: str = ""
    refused: str = ""
    here: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    listed: bool | None = None
    is_said: bool = False
    is_registered: bool = True


@dataclass(frozen=True)
class Kept:
    """Why the claimed address stays though this machine is reached at another, and what to do about that."""

    why: str
    hint: str


@dataclass(frozen=True)
class Decision:
    """`carried` are the addresses to serve. `claim` is to be claimed now; `give_up`: the former one is taken back.

    `walk`: the data path is to be walked back and started again. `moving_to` is claimed once it is served.
    """

    carried: tuple[str, ...] = ()
    claim: str = ""
    give_up: bool = False
    walk: bool = False
    moving_to: str = ""
    kept: Kept | None = None


def decide(facts: Facts) -> Decision:
    """What to do now."""
    if facts.former in facts.here and facts.is_said and not facts.is_registered:
        return Decision((facts.former,), give_up=True)
    if facts.found in ("", facts.claimed):
        return Decision(_carried(facts, facts.claimed))
    kept = _why_kept(facts)
    if kept is not None:
        return Decision(_carried(facts, facts.claimed), kept=kept)
    if facts.claimed in facts.here and not _is_alike(facts.found, facts.claimed) and facts.listed is not False:
        return Decision(_carried(facts, facts.claimed), walk=bool(facts.listed))
    is_due = not facts.claimed or facts.listed is False or facts.found in facts.served
    return Decision(
        _carried(facts, facts.found),
        claim=facts.found if is_due else "",
        moving_to="" if is_due else facts.found,
    )


def tell_slow(facts: Facts, seconds: float) -> Kept | None:
    """What to say of an address that was found so many seconds ago and is not claimed yet."""
    if seconds < SLOW:
        return None
    return Kept(
        f"{facts.found} is this machine's address now; pods are still told of {facts.claimed}, since no proxy serves "
        f"the new one yet",
        "see why no swap is made: exclave status; exclave proxy swap tries now",
    )


def _why_kept(facts: Facts) -> Kept | None:
    beginning = f"{facts.found} is this machine's address now, and {facts.claimed or 'none'} stays the one in the mesh"
    override = "or name the address by which pods reach this machine: member.address in /etc/exclave/config.toml"
    if facts.networks and not _lies_within(facts.found, facts.networks):
        return Kept(
            f"{beginning}: it lies in none of the group's networks: {', '.join(facts.networks)}",
            f"have an admin add its network to the group, {override}",
        )
    if facts.found == facts.refused and facts.claimed in facts.here:
        return Kept(
            f"{beginning}: the cluster has refused it, since a living member has it",
            f"have that one evicted if it is gone, then systemctl reload exclave; {override}",
        )
    return None


def _carried(facts: Facts, first: str) -> tuple[str, ...]:
    """The first one, and those that pods may be told of and that stand here, of its family."""
    others = [one for one in (facts.claimed, facts.former) if one in facts.here and _is_alike(one, first)]
    return tuple(dict.fromkeys((first, *others))) if first else ()


def _is_alike(one: str, other: str) -> bool:
    return bool(one and other) and ip_address(one).version == ip_address(other).version


def _lies_within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        return any(ip_address(address) in ip_network(network) for network in networks)
    except ValueError:
        return True  # the group's mistake, which the controller tells
