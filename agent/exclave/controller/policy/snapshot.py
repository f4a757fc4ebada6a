"""The values on which the controller decides. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cryptography import x509

from exclave.api.group import GroupSpec
from exclave.api.identity import MeshIdentity
from exclave.api.member import MemberView, view_member
from exclave.api.names import CORDONED
from exclave.api.requests import Object
from exclave.api.settings import ControlPlane, LinkerdSettings
from exclave.api.workload.withdrawal import NOTICE, SETTLE
from exclave.controller.policy.mark import MarkKey, has_mark, is_older

Key = tuple[str, str]  # namespace and name of an object
Adoption = Literal["unread", "adopted", "refused", "unknown"]
"""An earlier version's decision about a Member. `unknown`: the accounts of its namespace cannot be read now."""

NO_HEARTBEAT = "NoHeartbeat"  # reason of condition Live: there never was a heartbeat


@dataclass(frozen=True)
class Group:
    """A WorkloadGroup that could be read; `uid` for owner references."""

    namespace: str
    name: str
    uid: str
    spec: GroupSpec


@dataclass(frozen=True)
class Mesh:
    """The mesh by the last good reading of each of Linkerd's objects."""

    linkerd: LinkerdSettings
    anchors: str  # PEM
    issuer: str  # sha256 of the issuing certificate
    control_plane: ControlPlane
    issuer_ends: float = math.inf  # the earliest end in the issuer's chain, epoch seconds
    issuers: tuple[x509.Certificate, ...] = ()  # the issuer's chain and its anchor
    server_ca: str = ""  # PEM of the API server's CAs

    def identity_of(self, group: Group) -> MeshIdentity:
        """The identity of a group's members."""
        linkerd = self.linkerd
        return MeshIdentity(group.spec.service_account, group.namespace, linkerd.namespace, linkerd.trust_domain)


@dataclass(frozen=True)
class Signed:
    """A certificate that is not in the Member's status yet. `chain` is PEM, `not_after` epoch seconds."""

    csr_sha256: str
    chain: str
    not_after: float
    serial: int
    key_sha256: str


@dataclass(frozen=True)
class Neighbour:
    """A Member as seen by another Member with the same machine or address."""

    namespace: str
    name: str
    machine_hash: str
    address: str = ""  # as the Member states it; "" if it is outside its group's networks
    listed_addresses: frozenset[str] = frozenset()  # in its ExternalWorkload, or in a request that is under way
    has_ports: bool = False  # in its ExternalWorkload
    live: bool = False  # True until its own status is otherwise
    leaving: bool = False  # it is being deleted
    displaced: bool = False  # it lost its address: its condition Registered is False
    created: str = ""  # its creationTimestamp, which the API server writes
    admitted_at: float | None = None  # epoch seconds, which the controller writes

    @property
    def is_alive(self) -> bool:
        """True if it is live and not leaving."""
        return self.live and not self.leaving

    @property
    def is_deciding(self) -> bool:
        """True if it can decide about others with its machine or address: only then it may own one, or list ports."""
        return self.live or self.has_ports

    def owns(self, address: str) -> bool:
        """True if it owns the address: it is alive, states it, and has it in its ExternalWorkload."""
        return self.is_alive and self.address == address and address in self.listed_addresses

    def has_ports_at(self, address: str) -> bool:
        """True if its ExternalWorkload lists ports at this address, even if the machine states another."""
        return self.has_ports and address in self.listed_addresses

    def rank_at(self, address: str) -> tuple[bool, bool, bool, str, str, str]:
        """Sort key of the Members with one address; the smallest has it. Uses only what the controller writes."""
        listed, held = self.has_ports_at(address), self.owns(address)
        return (not listed, not held, self.displaced, self.created, self.namespace, self.name)


@dataclass(frozen=True)
class MemberSnapshot:
    """All that decides a Member's next transition. A crash loses only `signed` and `sealed`, which are made again."""

    member: Object
    now: float  # epoch seconds by the controller's clock
    group: Group | None = None
    mesh: Mesh | None = None
    settings_digest: str | None = None  # of its group's published settings
    settings_ports: frozenset[int] = frozenset()  # in its group's published settings
    admission_fault: str | None = None  # how the admission policies differ from the installed ones
    mesh_fault: str | None = None  # why there is no `mesh`
    group_refusal: str | None = None  # why the group accepts no new members
    group_wait: str | None = None  # why the group accepts no new members for now
    shares_account: bool = False  # an older group has the group's ServiceAccount
    namespace_refusal: str | None = None  # why no group may be in its namespace
    mark_key: MarkKey | None = None
    mark_fault: str | None = None  # why there is no `mark_key`
    adoption: Adoption = "unread"
    neighbours: tuple[Neighbour, ...] = ()  # the deciding ones of the other Members with the same machine or address
    workload: Object | None = None  # its ExternalWorkload
    has_account: bool = False
    has_lease: bool = False
    adopted_lease: Object | None = None  # its Lease, which the watch has not reported
    has_heartbeat: bool = False  # its Lease was renewed at least once
    live: bool = False  # its Lease is being renewed
    clones: tuple[str, str] | None = None  # the two boots that renew its Lease in turns, if two machines do
    emptied_at: float | None = None  # when this controller first found its ExternalWorkload without ports
    unready_at: float | None = None  # when it first found its ExternalWorkload with ports, but not Ready
    withdrawn_at: float | None = None  # when it first found that marked (`api/workload/withdrawal.py`)
    account_deleted: bool = False
    signed: Signed | None = None
    sealed: str | None = field(default=None, repr=False)

    @property
    def view(self) -> MemberView:
        """The parsed Member."""
        return view_member(self.member)

    @property
    def is_proven(self) -> bool:
        """True if this controller, or an earlier version, certainly admitted it."""
        return self.is_marked or self.adoption == "adopted"

    @property
    def is_marked(self) -> bool:
        """True if its status has its mark."""
        return self.mark_key is not None and has_mark(self.mark_key, self.member, self.view.mark)

    @property
    def is_reported(self) -> bool:
        """True if only its condition `Admitted` says that it was admitted, and nothing can prove or refute that now."""
        if self.is_proven or self.view.admitted is None or not self.view.admitted.status:
            return False
        return self.mark_key is None or self.adoption == "unknown"

    @property
    def awaits_adoption(self) -> bool:
        """True if an earlier version may have admitted it, and its account has not been read yet."""
        if self.mark_key is None or self.adoption != "unread" or self.is_marked:
            return False
        admitted = self.view.admitted
        return admitted is not None and admitted.status and is_older(self.member, self.mark_key)

    @property
    def was_never_admitted(self) -> bool:
        """True if it certainly was not admitted, so that it has no account."""
        return self.mark_key is not None and not (self.is_proven or self.is_reported or self.awaits_adoption)

    @property
    def cordoned(self) -> bool:
        """True if an admin has cordoned it."""
        annotations = self.member["metadata"].get("annotations") or {}
        return bool(annotations.get(CORDONED) == "true")

    @property
    def was_live(self) -> bool:
        """True if there was a heartbeat at some time, also if its Lease was deleted since."""
        return self.has_heartbeat or (self.view.live is not None and self.view.live.reason != NO_HEARTBEAT)

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.member["metadata"]["namespace"])

    @property
    def status(self) -> Mapping[str, Any]:
        """Its status, empty if it has none."""
        status = self.member.get("status")
        return status if isinstance(status, dict) else {}

    @property
    def settle_left(self) -> float:
        """Seconds until its ExternalWorkload may be marked."""
        return 0.0 if self.unready_at is None else max(0.0, self.unready_at + SETTLE - self.now)

    @property
    def notice_left(self) -> float:
        """Seconds until the ports of its marked ExternalWorkload may go."""
        since = self.now if self.withdrawn_at is None else self.withdrawn_at
        return max(0.0, since + NOTICE - self.now)

    def replaced(self, **changes: Any) -> "MemberSnapshot":
        """A snapshot with these changes."""
        return replace(self, **changes)


def workload_ports(workload: Object | None) -> tuple[int, ...]:
    """The ports that an ExternalWorkload lists, each once: a marked one has two names for each."""
    ports = ((workload or {}).get("spec") or {}).get("ports") or []
    return tuple(dict.fromkeys(int(port["port"]) for port in ports))
