"""An index of Members by machine and address: reading 10,000 Members for each decision costs too much. Pure.

A Member owns an address if it is alive, states it, has it in its group's networks, and has it in its ExternalWorkload,
which only the controller writes. Later claims are refused, also from other groups: in the cluster an address is one
machine. A silent Member loses its address once its ports are withdrawn; `transitions` decides when it is deleted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from exclave.api.member import ADMITTED, view_member
from exclave.api.requests import Object
from exclave.controller.policy.snapshot import Group, Key, Neighbour, workload_ports
from exclave.kit.formats.times import epoch


@dataclass
class Claims:
    """All Members by their claims, which are `machine <hash>` and `address <address>`.

    Only one that is live or lists ports decides about others. One join token can make 999 Members of one machine: they
    must not be compared with each other.
    """

    _neighbours: dict[Key, Neighbour] = field(default_factory=dict)
    _by_claim: dict[str, set[Key]] = field(default_factory=dict)
    _deciding: dict[str, set[Key]] = field(default_factory=dict)

    def refresh(self, key: Key, found: Neighbour | None) -> set[Key]:
        """Replace a Member; None removes it. Returns the other Members that the change affects."""
        before = self._neighbours.get(key)
        if before == found:
            return set()
        concerned: set[Key] = set()
        for one in (before, found):
            if one is not None and one.is_deciding:
                concerned |= _sharing(self._by_claim, one)
        self._forget(key)
        if found is not None:
            self._neighbours[key] = found
            for index in self._indexes(found):
                for claim in _claims(found):
                    index.setdefault(claim, set()).add(key)
        return concerned - {key}

    def sharing_with(self, key: Key) -> tuple[Neighbour, ...]:
        """The other Members with the same machine or address that decide about this one."""
        found = self._neighbours.get(key)
        sharing = _sharing(self._deciding, found) if found is not None else set()
        return tuple(self._neighbours[other] for other in sorted(sharing - {key}))

    def _indexes(self, found: Neighbour) -> tuple[dict[str, set[Key]], ...]:
        return (self._by_claim, self._deciding) if found.is_deciding else (self._by_claim,)

    def _forget(self, key: Key) -> None:
        removed = self._neighbours.pop(key, None)
        if removed is None:
            return
        for index in self._indexes(removed):
            for claim in _claims(removed):
                index[claim].discard(key)
                if not index[claim]:
                    del index[claim]


def _sharing(index: dict[str, set[Key]], found: Neighbour) -> set[Key]:
    return {key for claim in _claims(found) for key in index.get(claim, ())}


def neighbour_of(
    member: Object, workload: Object | None, group: Group | None, *, live: bool, reserved: Object | None = None
) -> Neighbour:
    """A Member as other Members see it. `reserved`: a patch of its ExternalWorkload that is under way."""
    view, metadata = view_member(member), member["metadata"]
    conditions = (member.get("status") or {}).get("conditions") or ()
    admitted = next((one for one in conditions if one.get("type") == ADMITTED and one.get("status") == "True"), None)
    return Neighbour(
        namespace=str(metadata.get("namespace", "")),
        name=view.name,
        machine_hash=view.machine_hash,
        address=_own(view.addresses, group),
        listed_addresses=frozenset((*workload_addresses(workload), *workload_addresses(reserved))),
        has_ports=bool(workload_ports(workload) or workload_ports(reserved)),
        live=live or (view.live is not None and view.live.status),
        leaving=view.deleting,
        displaced=view.registered is not None and not view.registered.status,
        created=str(metadata.get("creationTimestamp", "")),
        admitted_at=epoch(str(admitted.get("lastTransitionTime") or "")) if admitted else None,
    )


def plain_address(text: str) -> str:
    """An address in its canonical form. Raises ValueError, also for an address with a zone."""
    if "%" in text:
        raise ValueError("an address with a zone means something on its own machine only")
    found = ip_address(text)
    # Linkerd, like all Go programs, treats an IPv4 address and its IPv4-mapped IPv6 form as equal.
    return str((found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found)


def special_address(address: str) -> str | None:
    """What an address is if it is no machine's in a network. Kubernetes refuses such addresses in Endpoints, too."""
    found = ip_address(address)
    if found.is_loopback:
        return "a loopback address"
    if found.is_link_local:
        return "a link-local address"
    if found.is_multicast:
        return "a multicast address"
    return "the unspecified address" if found.is_unspecified else None


def lies_within(address: str, networks: tuple[str, ...]) -> bool:
    """True if the address is inside one of the networks. Raises ValueError if one of them cannot be read."""
    found = ip_address(address)
    return any(found in network for network in _networks(networks))


def workload_addresses(workload: Object | None) -> Iterator[str]:
    """The addresses in an ExternalWorkload, in canonical form; other texts are left out."""
    for one in ((workload or {}).get("spec") or {}).get("workloadIPs") or ():
        try:
            yield plain_address(str(one.get("ip", "")))
        except ValueError:
            continue


@lru_cache(1024)
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)


def _own(addresses: tuple[str, ...], group: Group | None) -> str:
    """The one address that a Member states, "" if it is outside its group's networks."""
    if len(addresses) != 1 or group is None:
        return ""
    try:
        address = plain_address(addresses[0])
        return address if lies_within(address, group.spec.networks) else ""
    except ValueError:
        return ""


def _claims(neighbour: Neighbour) -> set[str]:
    addresses = {f"address {one}" for one in (neighbour.address, *neighbour.listed_addresses) if one}
    return {f"machine {neighbour.machine_hash}", *addresses}
