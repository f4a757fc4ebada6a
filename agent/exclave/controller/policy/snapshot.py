"""What the controller knows when it decides about one Member or one group: values only. Pure.

`MemberWorld` is what one look shows, with what was made since (`signed`, `sealed`), so that the next step follows from
it alone, after a crash as in the first run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from exclave.api.identity import MeshIdentity
from exclave.api.member import MemberView, view_member
from exclave.api.names import CORDONED
from exclave.api.requests import Object
from exclave.api.settings import ControlPlane, GroupSpec, LinkerdSettings


@dataclass(frozen=True)
class Group:
    """A WorkloadGroup that could be read; `uid` for owner references."""

    namespace: str
    name: str
    uid: str
    spec: GroupSpec


@dataclass(frozen=True)
class Mesh:
    """What Linkerd's own objects say, the last good of each. `anchors` is PEM, `issuer` a fingerprint (sha256).

    `issuer_ends` is when the first certificate of the issuer's chain does (epoch seconds).
    """

    linkerd: LinkerdSettings
    anchors: str
    issuer: str
    control_plane: ControlPlane
    issuer_ends: float = math.inf

    def identity_of(self, group: Group) -> MeshIdentity:
        """What members of a group are called."""
        linkerd = self.linkerd
        return MeshIdentity(group.spec.service_account, group.namespace, linkerd.namespace, linkerd.trust_domain)


@dataclass(frozen=True)
class Signed:
    """A certificate just made: for which CSR, chain (PEM), end (epoch seconds); serial and key for the record."""

    csr_sha256: str
    chain: str
    not_after: float
    serial: int
    key_sha256: str


@dataclass(frozen=True)
class Neighbour:
    """A Member as far as it matters to another one of the same machine or address.

    `address` is the one that it says it has, "" if its group's networks do not hold it. `stands` are those that its
    ExternalWorkload has, or is being given at this moment; `lists`: pods are told of ports there. `live` until its own
    status says that it is not; `leaving` while it is being deleted; `displaced` once it was told that it has lost its
    address. `created` is the API server's word, `admitted_at` the controller's (epoch seconds).
    """

    namespace: str
    name: str
    machine_hash: str
    address: str = ""
    stands: frozenset[str] = frozenset()
    lists: bool = False
    live: bool = False
    leaving: bool = False
    displaced: bool = False
    created: str = ""
    admitted_at: float | None = None

    @property
    def lives(self) -> bool:
        """It is heard, and means to stay."""
        return self.live and not self.leaving

    def holds(self, address: str) -> bool:
        """Whether the address is its own: it lives, says that it has it, and was given it."""
        return self.lives and self.address == address and address in self.stands

    def is_listed_at(self, address: str) -> bool:
        """Whether pods are told of ports of it at this address, whatever it says itself."""
        return self.lists and address in self.stands

    def place_at(self, address: str) -> tuple[bool, bool, bool, str, str, str]:
        """Orders those who stand at one address: the least keeps it. Nothing in it is a machine's to write."""
        listed, held = self.is_listed_at(address), self.holds(address)
        return (not listed, not held, self.displaced, self.created, self.namespace, self.name)


@dataclass(frozen=True)
class MemberWorld:
    """One Member and all that belongs to it. `now` is epoch seconds by the controller's clock.

    `guard_fault` is what is wrong with the admission policies, `mesh_fault` why there is no `mesh`, `group_refusal` why
    the group takes no new members. `settings_ports` are those that the published settings have, whose digest there is.
    `neighbours` are the other Members of this machine or address; `clones` the two boots that take turns as this one.
    `beaten`: a heartbeat has come, ever; `live`: they come now. `emptied_at`: since when its ExternalWorkload has no
    ports, as far as this controller knows.
    """

    member: Object
    now: float
    group: Group | None = None
    mesh: Mesh | None = None
    settings_digest: str | None = None
    settings_ports: frozenset[int] = frozenset()
    guard_fault: str | None = None
    mesh_fault: str | None = None
    group_refusal: str | None = None
    neighbours: tuple[Neighbour, ...] = ()
    workload: Object | None = None
    has_account: bool = False
    has_lease: bool = False
    beaten: bool = False
    live: bool = False
    clones: tuple[str, str] | None = None
    emptied_at: float | None = None
    account_deleted: bool = False
    signed: Signed | None = None
    sealed: str | None = field(default=None, repr=False)

    @property
    def view(self) -> MemberView:
        """The Member, read."""
        return view_member(self.member)

    @property
    def cordoned(self) -> bool:
        """An admin has put it out of service for a while."""
        annotations = self.member["metadata"].get("annotations") or {}
        return bool(annotations.get(CORDONED) == "true")

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.member["metadata"]["namespace"])

    @property
    def status(self) -> Mapping[str, Any]:
        """Its status as it stands."""
        status = self.member.get("status")
        return status if isinstance(status, dict) else {}

    def seen(self, **changes: Any) -> "MemberWorld":
        """The same with what has changed."""
        return replace(self, **changes)


def workload_ports(workload: Object | None) -> tuple[int, ...]:
    """The ports that an ExternalWorkload lists."""
    ports = ((workload or {}).get("spec") or {}).get("ports") or []
    return tuple(int(port["port"]) for port in ports)
