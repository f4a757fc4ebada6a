"""Who has to do with a machine or an address: found without a look at every other Member. Pure.

What claims an address: nothing that a machine says alone. A Member holds one while it lives, says that it has it, its
own group's networks hold it, and its ExternalWorkload, which the controller writes, has it. Whoever says the same later
is refused, and changes nothing for the holder. One that is not live holds nothing once its ports are withdrawn: its
address goes to whoever passes the networks of its own group, of whatever group that is, since an address is one machine
to the whole cluster. What it loses then is the address; when a Member may be deleted for it is said in `transitions`.
An index over all Members, brought up to date with each change: reading a fleet of ten thousand for each look would
cost more than all the rest. Each change tells who else is to be looked at because of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from exclave.api.member import ADMITTED, view_member
from exclave.api.requests import Object
from exclave.controller.policy.snapshot import Group, Key, Neighbour, workload_ports
from exclave.kit.formats.rfc3339 import epoch


@dataclass
class Claims:
    """All Members by what they have to do with: `machine <hash>` or `address <address>`."""

    _known: dict[Key, Neighbour] = field(default_factory=dict)
    _by_claim: dict[str, set[Key]] = field(default_factory=dict)

    def refresh(self, key: Key, found: Neighbour | None) -> set[Key]:
        """Take what is known of a Member now, None if it is gone; who else is concerned by what has changed."""
        before = self._known.get(key)
        if before == found:
            return set()
        concerned = self._sharing(before) | self._sharing(found)
        self._forget(key)
        if found is not None:
            self._known[key] = found
            for claim in _claims(found):
                self._by_claim.setdefault(claim, set()).add(key)
        return concerned - {key}

    def sharing_with(self, key: Key) -> tuple[Neighbour, ...]:
        """The other Members that share a machine or an address with this one."""
        return tuple(self._known[other] for other in sorted(self._sharing(self._known.get(key)) - {key}))

    def _sharing(self, found: Neighbour | None) -> set[Key]:
        if found is None:
            return set()
        return {key for claim in _claims(found) for key in self._by_claim.get(claim, ())}

    def _forget(self, key: Key) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        for claim in _claims(known):
            self._by_claim[claim].discard(key)
            if not self._by_claim[claim]:
                del self._by_claim[claim]


def neighbour_of(
    member: Object, workload: Object | None, group: Group | None, *, live: bool, reserved: Object | None = None
) -> Neighbour:
    """A Member as others see it. `reserved` is an ExternalWorkload's patch that is under way."""
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
    """An address in the one way of writing it. Raises ValueError, also for one with a zone.

    An IPv4 address can be written as IPv6, and Linkerd, as everything in Go, takes both for one.
    """
    if "%" in text:
        raise ValueError("an address with a zone means something on its own machine only")
    found = ip_address(text)
    return str((found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found)


def lies_within(address: str, networks: tuple[str, ...]) -> bool:
    """Whether one of the networks holds the address. Raises ValueError if any of them is none."""
    found = ip_address(address)
    return any(found in network for network in _networks(networks))


def workload_addresses(workload: Object | None) -> Iterator[str]:
    """The addresses that an ExternalWorkload has, written the one way; what is no address is left out."""
    for one in ((workload or {}).get("spec") or {}).get("workloadIPs") or ():
        try:
            yield plain_address(str(one.get("ip", "")))
        except ValueError:
            continue


@lru_cache(1024)
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)


def _own(addresses: tuple[str, ...], group: Group | None) -> str:
    """The address that a Member says it has, if it says one and its group's networks hold it."""
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
