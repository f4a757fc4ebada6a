"""The next transition of a Member, decided from its state in the cluster, so every transition may be repeated. Pure.

Joining: finalizer, admission, account and Lease, ExternalWorkload, certificate, sealed credential, status in one write.
Removal: account (new requests fail from then on), Ready=False, the mark (`api/workload/withdrawal.py`), ports, a pause
for clients, ExternalWorkload, Lease, finalizer.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from exclave.api.csr import csr_sha256
from exclave.api.issuer import identity_fault
from exclave.api.member import (
    ADMITTED,
    CERTIFIED,
    CLONED,
    LIVE,
    READY_AWAITED,
    REGISTERED,
    Condition,
    read_conditions,
    with_condition,
)
from exclave.api.names import DRAIN, FINALIZER, PORTS_FINALIZER, group_of_member
from exclave.api.requests import Object, Request
from exclave.controller.policy.admit import (
    ABANDONED_AFTER,
    ISSUER_EXPIRED,
    NO_MARK_KEY,
    NOT_READY,
    REFUSED_AFTER,
    AdmitResult,
    address_refusal,
    admit,
    foreign_refusal,
    is_refused,
    network_refusal,
)
from exclave.controller.policy.claims import neighbour_of
from exclave.controller.policy.liveness import FORGET_CLONE
from exclave.controller.policy.mark import mark_of
from exclave.controller.policy.register import (
    MarkNotReady,
    awaits_ready_since,
    is_of_group,
    is_ready,
    register,
    withdraw,
)
from exclave.controller.policy.sign import key_fault
from exclave.controller.policy.snapshot import Group, MemberSnapshot, Mesh, Signed, workload_ports
from exclave.kit.formats.times import epoch, rfc3339

NOT_LIVE = "NotLive"  # reason of condition Live: heartbeats have stopped
MOST_ISSUED = 5  # certificates that a Member's status lists, and that are signed for it in one window
# Seconds, at most. Certificates of 10 s are renewed every 5 s, also right before their group gets longer ones: five of
# them take longer than this, so the first long one is not late.
SIGNING_WINDOW = 20.0


class Action(Enum):
    """Transitions without parameters. The values are their labels in metrics."""

    ADD_FINALIZER = "AddFinalizer"  # to the Member, before anything is created for it
    MAKE_ACCOUNT = "MakeAccount"
    MAKE_LEASE = "MakeLease"  # an empty one
    ADOPT = "Adopt"  # find out whether an earlier version admitted the Member: its account exists then
    SIGN = "Sign"  # its CSR, after Member and group were read again
    SEAL = "Seal"  # a token of its account, encrypted to its delivery key
    DELETE_ACCOUNT = "DeleteAccount"  # and with it all its tokens
    EMPTY_PORTS = "EmptyPorts"
    DELETE_WORKLOAD = "DeleteWorkload"
    RELEASE_WORKLOAD = "ReleaseWorkload"  # remove our finalizer
    DELETE_LEASE = "DeleteLease"
    RELEASE_MEMBER = "ReleaseMember"  # remove our finalizer: the Member is deleted then

    @property
    def label(self) -> str:
        """The name in metrics."""
        return self.value


@dataclass(frozen=True)
class PutWorkload:
    """Create or patch the ExternalWorkload."""

    label: ClassVar = "PutWorkload"
    request: Request


@dataclass(frozen=True)
class WriteStatus:
    """Merge this into the Member's status."""

    label: ClassVar = "WriteStatus"
    patch: Object


@dataclass(frozen=True)
class DeleteMember:
    """Delete a Member that was refused or abandoned, which frees its name."""

    label: ClassVar = "DeleteMember"
    why: str


@dataclass(frozen=True)
class RecheckAfter:
    """Reconcile again after these seconds."""

    seconds: float


Transition = Action | PutWorkload | WriteStatus | MarkNotReady | DeleteMember | RecheckAfter


def next_transition(snapshot: MemberSnapshot) -> Transition | None:
    """The next transition of this Member; None if there is nothing to do until something changes."""
    view = snapshot.view
    if foreign_refusal(snapshot) is not None:
        return _end_foreign(snapshot)
    if view.deleting:
        return next_removal(snapshot) if FINALIZER in view.finalizers else None
    if FINALIZER not in view.finalizers:
        # Nothing was created for this Member yet. The Lease is a former Member's of this name, whose finalizer somebody
        # removed by hand, so its renewals prove nothing about this one.
        return Action.DELETE_LEASE if snapshot.has_lease and view.admitted is None else Action.ADD_FINALIZER
    if snapshot.awaits_adoption:
        return Action.ADOPT
    result = admit(snapshot)
    if not result.admitted:
        return _refuse(snapshot, result)
    if snapshot.group is None or snapshot.mesh is None:
        return None  # admitted, but nothing can be decided now: do not change what runs
    if not snapshot.has_lease and snapshot.was_live:
        return Action.MAKE_LEASE  # before anything is decided by its heartbeats
    if not snapshot.was_live and _age(snapshot) > ABANDONED_AFTER:
        return DeleteMember("it never sent a heartbeat")
    if (why := _end_of(snapshot, snapshot.group)) is not None:
        return DeleteMember(why)
    if not snapshot.has_account and not snapshot.has_heartbeat and _may_have_keys(snapshot):
        return Action.MAKE_ACCOUNT
    if not snapshot.has_lease:
        return Action.MAKE_LEASE
    return _serve(snapshot, snapshot.group, snapshot.mesh, result)


def _end_foreign(snapshot: MemberSnapshot) -> Transition | None:
    """The next transition of a Member for which the controller never created anything: refuse and delete it."""
    if snapshot.view.deleting:
        return Action.RELEASE_MEMBER if FINALIZER in snapshot.view.finalizers else None
    return _refuse(snapshot, admit(snapshot))


def _may_have_keys(snapshot: MemberSnapshot) -> bool:
    """True if the Member may get an account, a credential and certificates now."""
    return snapshot.admission_fault is None and snapshot.mark_key is not None and not snapshot.is_reported


def next_removal(snapshot: MemberSnapshot) -> Transition:
    """The next transition of a Member that is being deleted."""
    if not snapshot.account_deleted:
        return Action.DELETE_ACCOUNT
    if snapshot.workload is not None and is_of_group(snapshot.workload):
        return retire_workload(snapshot)
    if snapshot.has_lease:
        return Action.DELETE_LEASE
    return Action.RELEASE_MEMBER


def retire_workload(snapshot: MemberSnapshot) -> Transition:
    """The next transition towards the deletion of the ExternalWorkload."""
    workload = snapshot.workload
    assert workload is not None
    deleting = bool(workload["metadata"].get("deletionTimestamp"))
    if not deleting and is_ready(workload):
        return MarkNotReady("Evicted", "the Member is being deleted")
    if workload_ports(workload):
        step = withdraw(snapshot, workload)
        if step is not None:
            return RecheckAfter(step) if isinstance(step, float) else PutWorkload(step)
        return Action.EMPTY_PORTS  # deleting one with ports crashes older destination controllers, see docs/linkerd.md
    since = snapshot.now - (snapshot.emptied_at if snapshot.emptied_at is not None else snapshot.now)
    if since < DRAIN:
        return RecheckAfter(DRAIN - since)
    if not deleting:
        return Action.DELETE_WORKLOAD
    if PORTS_FINALIZER in (workload["metadata"].get("finalizers") or []):
        return Action.RELEASE_WORKLOAD
    return RecheckAfter(1.0)


def _end_of(snapshot: MemberSnapshot, group: Group) -> str | None:
    """The reason why a silent member is deleted, None if it is not."""
    gone_since = not_live_since(snapshot)
    if gone_since is None:
        return None
    if snapshot.now - gone_since > group.spec.forget_after:
        return f"no heartbeat since {rfc3339(gone_since)}, for longer than its group waits"
    # Delete it only if a member of the same group, admitted after the silence began, owns its address now: that needs a
    # join token, so an admin replaced it. An older member, or one of another group, may take over the address but never
    # causes a deletion: otherwise a stolen machine could evict a peer that is rebooting.
    mine = neighbour_of(snapshot.member, snapshot.workload, group, live=False).address
    for other in snapshot.neighbours:
        is_ours = other.namespace == snapshot.namespace and group_of_member(other.name) == group.name
        if is_ours and other.owns(mine) and other.admitted_at is not None and other.admitted_at >= gone_since:
            return f"the living member {other.namespace}/{other.name} has its address {mine}"
    return None


def not_live_since(snapshot: MemberSnapshot) -> float | None:
    """The time when it fell silent, by its own status (epoch seconds); None if it is live or never was."""
    if snapshot.live or not snapshot.has_heartbeat:
        return None
    for one in snapshot.status.get("conditions") or ():
        if one.get("type") == LIVE and one.get("status") == "False" and one.get("reason") == NOT_LIVE:
            return epoch(str(one.get("lastTransitionTime") or ""))
    return None


def _serve(snapshot: MemberSnapshot, group: Group, mesh: Mesh, result: AdmitResult) -> Transition | None:
    workload = snapshot.workload
    if workload is not None and workload["metadata"].get("deletionTimestamp"):
        return retire_workload(snapshot)  # deleted by another client: release it, then create it again
    if snapshot.was_live and not snapshot.live and is_ready(workload):
        return MarkNotReady(NOT_LIVE, "no heartbeat for three intervals")
    step = register(snapshot, group, mesh)
    if isinstance(step, Request):
        return PutWorkload(step)
    if isinstance(step, MarkNotReady):
        return step
    if snapshot.has_heartbeat and snapshot.signed is None and (patch := status_patch(snapshot, result)):
        return WriteStatus(patch)  # before a renewal, which may fail; a joining machine gets everything at once
    waits = [] if snapshot.clones is None else [FORGET_CLONE + 1.0]
    if snapshot.signed is None and _awaits_certificate(snapshot) and signing_fault(snapshot) is None:
        pause = _signing_pause(snapshot, group)
        if pause <= 0:
            return Action.SIGN
        waits.append(pause)
    has_credential = snapshot.was_live or snapshot.view.credential is not None or snapshot.sealed is not None
    if not has_credential and _may_have_keys(snapshot):
        return Action.SEAL
    if patch := status_patch(snapshot, result):
        return WriteStatus(patch)
    if step is not None:
        waits.append(step)
    if (gone_since := not_live_since(snapshot)) is not None:
        waits.append(gone_since + group.spec.forget_after - snapshot.now + 1.0)
    return RecheckAfter(min(waits)) if waits else None


def _refuse(snapshot: MemberSnapshot, result: AdmitResult) -> Transition:
    condition = Condition(ADMITTED, False, result.reason, result.message)
    if snapshot.view.admitted != condition:
        return WriteStatus({"status": {"conditions": _conditions(snapshot, [condition])}})
    age, lifetime = _age(snapshot), REFUSED_AFTER if is_refused(snapshot.view) else ABANDONED_AFTER
    return DeleteMember(result.message) if age > lifetime else RecheckAfter(lifetime - age + 1.0)


def status_patch(snapshot: MemberSnapshot, result: AdmitResult) -> Object:
    """The changes that the Member's status needs, as a merge patch; empty if there are none."""
    view = snapshot.view
    wanted: dict[str, Any] = {}
    conditions = [Condition(ADMITTED, True, result.reason, result.message), _registered(snapshot), _live(snapshot)]
    conditions += [one for one in (_cloned(snapshot), _certified(snapshot)) if one is not None]
    current = (view.admitted, view.registered, view.live, view.cloned, view.certified)
    if any(condition not in current for condition in conditions):
        wanted["conditions"] = _conditions(snapshot, conditions)
    if snapshot.signed is not None and _awaits_certificate(snapshot):  # otherwise another controller was faster
        wanted |= _certificate(snapshot, snapshot.signed)
    if snapshot.sealed is not None:
        wanted["credential"] = snapshot.sealed
    elif snapshot.has_heartbeat and view.credential is not None:
        wanted["credential"] = None
    uid = str(((snapshot.workload or {}).get("metadata") or {}).get("uid") or "")
    workload = {"uid": uid, "ports": list(workload_ports(snapshot.workload))}
    if workload != {"uid": view.workload_uid or "", "ports": list(view.workload_ports)}:
        wanted["externalWorkload"] = workload
    if snapshot.cordoned != view.cordoned:
        wanted["cordoned"] = snapshot.cordoned
    if snapshot.mark_key is not None and not snapshot.is_reported and not snapshot.is_marked:
        wanted["mark"] = mark_of(snapshot.mark_key, snapshot.member)
    if snapshot.settings_digest and snapshot.settings_digest != view.settings:
        wanted["settings"] = snapshot.settings_digest
    return {"status": wanted} if wanted else {}


def _registered(snapshot: MemberSnapshot) -> Condition:
    fault = address_refusal(snapshot, snapshot.group) if snapshot.group is not None else None
    if fault is not None:
        return Condition(REGISTERED, False, fault.reason, f"no port is listed: {fault.message}")
    if snapshot.group is not None and (since := awaits_ready_since(snapshot, snapshot.group)) is not None:
        message = f"the machine must report Ready again: Ready=False was written for a change of its address at {since}"
        return Condition(REGISTERED, True, READY_AWAITED, message)
    return Condition(REGISTERED, True, "Registered", f"ExternalWorkload {snapshot.view.name} exists")


def _cloned(snapshot: MemberSnapshot) -> Condition | None:
    if snapshot.clones is not None:
        boots = " and ".join(boot.partition(".")[2] or boot for boot in snapshot.clones)
        return Condition(
            CLONED,
            True,
            "TwoMachines",
            f"two machines take turns as this member, boots {boots}: evict it, and join each with a token of its own "
            "after rm /etc/machine-id && systemd-machine-id-setup",
        )
    if snapshot.view.cloned is not None:
        return Condition(CLONED, False, "OneMachine", "heartbeats come from one machine only")
    return None


def _awaits_certificate(snapshot: MemberSnapshot) -> bool:
    view = snapshot.view
    return bool(view.csr) and csr_sha256(view.csr) != (view.certificate.csr_sha256 if view.certificate else "")


def signing_fault(snapshot: MemberSnapshot) -> tuple[str, str] | None:
    """Reason and message if its CSR must not be signed, else None. No condition of the Member is asked."""
    if snapshot.admission_fault is not None:
        return "GuardMissing", snapshot.admission_fault
    if snapshot.mark_key is None:
        return NOT_READY, snapshot.mark_fault or NO_MARK_KEY
    if snapshot.is_reported:
        return NOT_READY, "the controller cannot read the accounts of its namespace, by which it recognises its members"
    if snapshot.shares_account:
        return "AccountShared", f"its group is not accepted: {snapshot.group_refusal}"
    if snapshot.group is not None and (refusal := network_refusal(snapshot, snapshot.group)) is not None:
        return refusal.reason, refusal.message
    if snapshot.mesh is not None and snapshot.mesh.issuer_ends <= snapshot.now:
        return "IssuerExpired", ISSUER_EXPIRED
    if snapshot.mesh is not None and snapshot.group is not None:
        fault = identity_fault(snapshot.mesh.issuers, snapshot.mesh.identity_of(snapshot.group))
        if fault is not None:
            return "NameNotPermitted", fault
    try:
        fault = key_fault(snapshot.view)
    except ValueError as problem:
        fault = str(problem)
    return None if fault is None else ("RequestRefused", fault)


def _signing_pause(snapshot: MemberSnapshot, group: Group) -> float:
    """Seconds until one more certificate may be signed: a machine may write a new CSR at any time."""
    issued = snapshot.status.get("issued")
    if not isinstance(issued, list) or len(issued) < MOST_ISSUED:
        return 0.0
    window = min(SIGNING_WINDOW, 2 * group.spec.certificate_lifetime)  # a renewal comes after half of the lifetime
    earliest = epoch(str(issued[-MOST_ISSUED].get("time") or ""))
    return 0.0 if earliest is None else min(window, earliest + window - snapshot.now)


def _certified(snapshot: MemberSnapshot) -> Condition | None:
    fault = signing_fault(snapshot) if _awaits_certificate(snapshot) and snapshot.signed is None else None
    if fault is not None:
        reason, message = fault
        return Condition(CERTIFIED, False, reason, f"no certificate is signed: {message}")
    if snapshot.view.certified is not None and (snapshot.signed is not None or not _awaits_certificate(snapshot)):
        return Condition(CERTIFIED, True, "Certified", "its certificates are signed")
    return None


def _live(snapshot: MemberSnapshot) -> Condition:
    if snapshot.live:
        return Condition(LIVE, True, "HeartbeatsArrive", "its Lease is being renewed")
    if snapshot.was_live:
        return Condition(LIVE, False, NOT_LIVE, "its Lease has not been renewed for three intervals")
    return Condition(LIVE, False, "NoHeartbeat", "its Lease has never been renewed")


def _certificate(snapshot: MemberSnapshot, signed: Signed) -> dict[str, Any]:
    issued = snapshot.status.get("issued")
    record = {"serial": f"{signed.serial:x}", "keySha256": signed.key_sha256, "time": rfc3339(snapshot.now)}
    return {
        "certificate": {"csrSha256": signed.csr_sha256, "chain": signed.chain, "notAfter": rfc3339(signed.not_after)},
        "issued": [*(issued if isinstance(issued, list) else []), record][-MOST_ISSUED:],
    }


def _conditions(snapshot: MemberSnapshot, conditions: list[Condition]) -> list[Object]:
    found: Any = snapshot.status.get("conditions")
    listed = list(found) if isinstance(found, list) else []
    current = read_conditions(listed)
    for condition in conditions:
        if condition not in current:
            listed = with_condition(listed, condition, snapshot.now)
    return listed


def _age(snapshot: MemberSnapshot) -> float:
    """Seconds since the Member was created."""
    created = epoch(str(snapshot.member["metadata"].get("creationTimestamp") or ""))
    return 0.0 if created is None else snapshot.now - created
