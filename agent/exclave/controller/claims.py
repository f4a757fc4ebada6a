"""Which living members claim a machine or an address: found without a look at every other one. Pure.

Rules: an index over the living, brought up to date when who is live changes; a member that is being deleted claims
nothing any more. Reading a fleet of ten thousand for each look would cost more than all the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from exclave.cluster.requests import Object
from exclave.controller.world import Neighbour
from exclave.member.spec import view_member

Key = tuple[str, str]


@dataclass
class Claims:
    """Living members by what they claim: `machine <hash>` or `address <address>`."""

    _versions: dict[Key, tuple[str, Neighbour]] = field(default_factory=dict)
    _by_claim: dict[str, set[Key]] = field(default_factory=dict)

    def keep(self, living: set[Key], members: Mapping[Key, Object]) -> None:
        """Bring the index up to date with who is live; what one says of itself is told by `refresh`."""
        for key in self._versions.keys() - living:
            self._forget(key)
        for key in living - self._versions.keys():
            self.refresh(key, members.get(key), is_live=True)

    def refresh(self, key: Key, member: Object | None, *, is_live: bool) -> None:
        """Look at one member again."""
        if member is None or not is_live or member["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return
        version = str(member["metadata"].get("resourceVersion", ""))
        known = self._versions.get(key)
        if known is not None and version and known[0] == version:
            return
        view = view_member(member)
        self._forget(key)
        neighbour = Neighbour(key[0], key[1], view.machine_hash, (view.addresses or ("",))[0])
        self._versions[key] = (version, neighbour)
        for claim in _claims(neighbour.machine_hash, neighbour.address):
            self._by_claim.setdefault(claim, set()).add(key)

    def like(self, member: Object) -> tuple[Neighbour, ...]:
        """The living members that claim what this one does, itself among them if it is live."""
        view = view_member(member)
        keys = {
            key
            for claim in _claims(view.machine_hash, (view.addresses or ("",))[0])
            for key in self._by_claim.get(claim, ())
        }
        return tuple(self._versions[key][1] for key in sorted(keys))

    def _forget(self, key: Key) -> None:
        known = self._versions.pop(key, None)
        if known is None:
            return
        for claim in _claims(known[1].machine_hash, known[1].address):
            self._by_claim[claim].discard(key)
            if not self._by_claim[claim]:
                del self._by_claim[claim]


def _claims(machine_hash: str, address: str) -> list[str]:
    return [f"machine {machine_hash}", *([f"address {address}"] if address else [])]
