"""Decides whether a machine may be a member. Pure. The decision holds until the Member is deleted."""

from dataclasses import dataclass

from exclave.api.csr import read_csr
from exclave.api.delivery import read_delivery_key
from exclave.api.issuer import identity_fault
from exclave.api.member import MemberView
from exclave.api.names import MARK_SECRET, parse_member_name
from exclave.controller.policy.claims import lies_within, neighbour_of, plain_address, special_address
from exclave.controller.policy.snapshot import Group, MemberSnapshot, Neighbour

ABANDONED_AFTER = 600.0  # seconds after which a Member that waits to be admitted, or sent no heartbeat, is deleted
REFUSED_AFTER = 20.0  # seconds after which a refused Member is deleted; its machine reads it every 2 s at the latest
NOT_READY = "NotReady"  # reason of a refusal that is none yet: the machine waits
GUARD_MISSING = "GuardMissing"  # for all Members, until an admin installs the policies again

NO_MARK_KEY = f"the controller has not read Secret {MARK_SECRET} yet"
ADMITTED_WORDS = ("Admitted", "it was admitted before")

ISSUER_EXPIRED = "the issuer's certificate, or one above it, has expired: nobody can be certified before it is renewed"


@dataclass(frozen=True)
class AdmitResult:
    """`reason`: Admitted, or a fixed word that `join/refusals.py` turns into an error. `message` names the remedy."""

    admitted: bool
    reason: str
    message: str


def admit(snapshot: MemberSnapshot) -> AdmitResult:
    """Admit or refuse a Member that is not being deleted."""
    view, group = snapshot.view, snapshot.group
    if (foreign := foreign_refusal(snapshot)) is not None:
        return foreign
    if snapshot.is_proven or snapshot.is_reported:
        admitted = view.admitted
        words = (admitted.reason, admitted.message) if admitted is not None and admitted.status else ADMITTED_WORDS
        return AdmitResult(True, *words)
    if is_refused(view):
        # Its machine has read this and ended the join. Admitted later, it would be a member without a machine.
        assert view.admitted is not None
        return _no(view.admitted.reason, view.admitted.message)
    if snapshot.admission_fault is not None:
        return _no(GUARD_MISSING, snapshot.admission_fault)
    if group is None:
        name = parse_member_name(view.name).group
        return _no("GroupNotFound", f"there is no WorkloadGroup {name} in namespace {snapshot.namespace}")
    if snapshot.group_refusal is not None:
        return _no("GroupNotAccepted", f"group {group.name} takes no new members: {snapshot.group_refusal}")
    if snapshot.group_wait is not None:
        return _no(NOT_READY, f"group {group.name} takes no new members for now: {snapshot.group_wait}")
    refusal = (
        _keys_refusal(view) or _machine_refusal(snapshot) or address_refusal(snapshot, group) or _mesh_refusal(snapshot)
    )
    return refusal or AdmitResult(True, "Admitted", f"a member of group {group.name}")


def foreign_refusal(snapshot: MemberSnapshot) -> AdmitResult | None:
    """The reason why this Member can never have been a member, by its namespace or name; None if it can."""
    if snapshot.namespace_refusal is not None:
        return _no("GroupNotAccepted", f"namespace {snapshot.namespace} {snapshot.namespace_refusal}")
    try:
        parse_member_name(snapshot.view.name)
    except ValueError as problem:
        return _no("GroupNotFound", str(problem))
    return None


def is_refused(view: MemberView) -> bool:
    """True if a Member has been refused for good."""
    return (
        view.admitted is not None
        and not view.admitted.status
        and view.admitted.reason not in (NOT_READY, GUARD_MISSING)
    )


def _no(reason: str, message: str) -> AdmitResult:
    return AdmitResult(False, reason, message)


def _mesh_refusal(snapshot: MemberSnapshot) -> AdmitResult | None:
    # A machine that joins treats NotReady as "wait", all other reasons as refusals.
    if snapshot.mark_key is None:
        return _no(NOT_READY, snapshot.mark_fault or NO_MARK_KEY)
    if snapshot.mesh is None:
        return _no(NOT_READY, snapshot.mesh_fault or "the controller can certify nobody yet")
    if snapshot.mesh.issuer_ends <= snapshot.now:
        return _no(NOT_READY, ISSUER_EXPIRED)
    if snapshot.group is not None:
        fault = identity_fault(snapshot.mesh.issuers, snapshot.mesh.identity_of(snapshot.group))
        if fault is not None:
            return _no("GroupNotAccepted", f"group {snapshot.group.name} takes no new members: {fault}")
    return None


def _keys_refusal(view: MemberView) -> AdmitResult | None:
    # A bad key would fail only later, so check it now, while a person watches the join.
    try:
        read_csr(view.csr)
        read_delivery_key(view.delivery_key)
    except ValueError as problem:
        return _no("RequestRefused", str(problem))
    return None


def network_refusal(snapshot: MemberSnapshot, group: Group) -> AdmitResult | None:
    """The reason why a Member's stated address is not one of its group's; None if it is."""
    view = snapshot.view
    if len(view.addresses) != 1:
        return _no("AddressRefused", f"one address was expected, found {len(view.addresses)}")
    stated, networks = view.addresses[0], ", ".join(group.spec.networks)
    try:
        address = plain_address(stated)
        is_ours = lies_within(address, group.spec.networks)
    except ValueError:
        return _no("AddressRefused", f"{stated!r} is not an address, or one of {networks} no network")
    if not is_ours:
        return _no("AddressRefused", f"{address} lies in none of the group's networks: {networks}")
    if (kind := special_address(address)) is not None:
        return _no("AddressRefused", f"{address} is {kind}, which no pod can use to reach the machine")
    if snapshot.mesh is not None and snapshot.mesh.control_plane.has(address):
        return _no("AddressRefused", f"{address} is the address of a pod of Linkerd's control plane, or of the DNS")
    return None


def address_refusal(snapshot: MemberSnapshot, group: Group) -> AdmitResult | None:
    """The reason why a Member may not have its stated address; None if it may. A running member may also lose it."""
    if (refusal := network_refusal(snapshot, group)) is not None:
        return refusal
    address, mine = plain_address(snapshot.view.addresses[0]), _mine(snapshot, group)
    for other in snapshot.neighbours:
        if other.owns(address) and not (mine.owns(address) and mine.rank_at(address) < other.rank_at(address)):
            found = f"{address} is the address of the living member {other.name}"
            return _no("AddressInUse", f"{found}. If that is gone: {_evict(other)}")
    return None


def is_listed_elsewhere(snapshot: MemberSnapshot, group: Group) -> bool:
    """True if another Member still lists ports at this one's address. Reconciling that Member withdraws them."""
    # Two workloads with ports at one address make every Linkerd lookup of it fail.
    mine = _mine(snapshot, group)
    return any(
        other.has_ports_at(mine.address) and other.rank_at(mine.address) < mine.rank_at(mine.address)
        for other in snapshot.neighbours
    )


def _mine(snapshot: MemberSnapshot, group: Group) -> Neighbour:
    return neighbour_of(snapshot.member, snapshot.workload, group, live=snapshot.live)


def _machine_refusal(snapshot: MemberSnapshot) -> AdmitResult | None:
    view = snapshot.view
    for other in snapshot.neighbours:
        if other.is_alive and other.machine_hash == view.machine_hash:
            return _no(
                "MachineKnown",
                f"{view.name} and the living member {other.name} are the same machine: a clone, or one that was "
                f"reinstalled. If {other.name} is gone: {_evict(other)}",
            )
    return None


def _evict(other: Neighbour) -> str:
    return f"kubectl exclave member evict {other.name} -n {other.namespace}"
