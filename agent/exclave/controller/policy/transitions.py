"""The next step for a Member, from what is known of it: the controller's whole policy in one order. Pure.

finalizer → judged → account and Lease → ExternalWorkload → certificate → sealed credential → one write of the status.
Every step may be repeated: the next look starts from what is there. A refused Member waits for its removal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exclave.api.csr import csr_sha256, read_csr
from exclave.api.member import ADMITTED, CERTIFIED, CLONED, LIVE, REGISTERED, Condition, read_conditions, with_condition
from exclave.api.names import FINALIZER, group_of_member
from exclave.api.requests import Object, Request
from exclave.controller.policy.admit import ABANDONED_AFTER, ISSUER_EXPIRED, Judgement, judge, judge_address
from exclave.controller.policy.claims import neighbour_of
from exclave.controller.policy.heartbeats import FORGET_CLONE
from exclave.controller.policy.reap import MarkNotReady, Undoing, Wait, next_undoing, retire_workload
from exclave.controller.policy.register import is_ready, register
from exclave.controller.policy.snapshot import Group, MemberWorld, workload_ports
from exclave.kit.formats.rfc3339 import epoch, rfc3339

NOT_LIVE = "NotLive"
"""Reason of condition Live: heartbeats came, and come no more."""

KEPT_ISSUED = 5
"""Certificates that a Member's status remembers."""


@dataclass(frozen=True)
class AddFinalizer:
    """Put our finalizer on the Member, before anything is made for it."""


@dataclass(frozen=True)
class MakeAccount:
    """Make the member's ServiceAccount."""


@dataclass(frozen=True)
class MakeLease:
    """Make the member's Lease, empty."""


@dataclass(frozen=True)
class PutWorkload:
    """Make or mend the ExternalWorkload."""

    request: Request


@dataclass(frozen=True)
class Sign:
    """Sign the Member's CSR, after a live read of Member and group."""


@dataclass(frozen=True)
class Seal:
    """Mint a token of the member's account and seal it to its delivery key."""


@dataclass(frozen=True)
class WriteStatus:
    """Merge this into the Member's status."""

    patch: Object


@dataclass(frozen=True)
class DeleteMember:
    """Delete a Member that was refused or abandoned; its name is free again."""

    why: str


Step = AddFinalizer | MakeAccount | MakeLease | PutWorkload | Sign | Seal | WriteStatus | DeleteMember | Undoing | None


def next_step(world: MemberWorld) -> Step:
    """What to do next for this Member; None if nothing is to be done before something changes."""
    view = world.view
    if view.deleting:
        return next_undoing(world) if FINALIZER in view.finalizers else None
    if FINALIZER not in view.finalizers:
        return AddFinalizer()
    judgement = judge(world)
    if not judgement.admitted:
        return _refuse(world, judgement)
    if world.group is None or world.mesh is None:
        return None  # admitted before, and nothing can be decided now: what runs is left alone
    if not world.beaten and _age(world) > ABANDONED_AFTER:
        return DeleteMember("it never sent a heartbeat")
    if (why := _end_of(world, world.group)) is not None:
        return DeleteMember(why)
    if not world.has_account and not world.beaten and world.guard_fault is None:
        return MakeAccount()
    if not world.has_lease:
        return MakeLease()
    return _serve(world, judgement)


def _end_of(world: MemberWorld, group: Group) -> str | None:
    """Why a member that was one has come to its end by itself; None if it has not.

    A machine of its group that was admitted after it fell silent, and holds its address, has taken its place: only a
    join token makes such a one. Whoever was a member before, or is another group's, takes the address at most, since a
    stolen machine might: a restart is enough for silence.
    """
    gone_since = not_live_since(world)
    if gone_since is None:
        return None
    if world.now - gone_since > group.spec.forget_after:
        return f"no heartbeat since {rfc3339(gone_since)}, for longer than its group waits"
    mine = neighbour_of(world.member, world.workload, group, live=False).address
    for other in world.neighbours:
        is_ours = other.namespace == world.namespace and group_of_member(other.name) == group.name
        if is_ours and other.holds(mine) and other.admitted_at is not None and other.admitted_at >= gone_since:
            return f"the living member {other.namespace}/{other.name} has its address {mine}"
    return None


def not_live_since(world: MemberWorld) -> float | None:
    """When it was last found not to be live, as its own status says (epoch seconds); None while it is, or never was."""
    if world.live or not world.beaten:
        return None
    for one in world.status.get("conditions") or ():
        if one.get("type") == LIVE and one.get("status") == "False" and one.get("reason") == NOT_LIVE:
            return epoch(str(one.get("lastTransitionTime") or ""))
    return None


def _serve(world: MemberWorld, judgement: Judgement) -> Step:
    """The next step for a member that is admitted."""
    view = world.view
    assert world.group is not None
    assert world.mesh is not None
    if world.workload is not None and world.workload["metadata"].get("deletionTimestamp"):
        return retire_workload(world)  # deleted by somebody else: let go of it, then make it again
    if world.workload is not None and world.beaten and not world.live and is_ready(world.workload):
        return MarkNotReady(NOT_LIVE, "no heartbeat for three intervals")
    request = register(world, world.group, world.mesh)
    if request is not None:
        return PutWorkload(request)
    if world.beaten and world.signed is None and (patch := status_patch(world, judgement)):
        return WriteStatus(patch)  # whatever becomes of a renewal; a machine that joins is told everything at once
    if world.signed is None and _awaits_certificate(world) and _signing_fault(world) is None:
        return Sign()
    if world.guard_fault is None and not world.beaten and view.credential is None and world.sealed is None:
        return Seal()
    patch = status_patch(world, judgement)
    if patch:
        return WriteStatus(patch)
    return _next_look(world, world.group)


def _next_look(world: MemberWorld, group: Group) -> Wait | None:
    """When time alone will have changed something; None if it will not."""
    waits = [] if world.clones is None else [FORGET_CLONE + 1.0]
    if (gone_since := not_live_since(world)) is not None:
        waits.append(gone_since + group.spec.forget_after - world.now + 1.0)
    return Wait(min(waits)) if waits else None


def _refuse(world: MemberWorld, judgement: Judgement) -> Step:
    age = _age(world)
    if age > ABANDONED_AFTER:
        return DeleteMember(judgement.message)
    condition = Condition(ADMITTED, False, judgement.reason, judgement.message)
    if world.view.admitted != condition:
        return WriteStatus({"status": {"conditions": _conditions(world, [condition])}})
    return Wait(ABANDONED_AFTER - age + 1.0)


def status_patch(world: MemberWorld, judgement: Judgement) -> Object:
    """What the Member's status lacks, as a merge patch; empty if nothing."""
    view = world.view
    wanted: dict[str, Any] = {}
    conditions = [
        Condition(ADMITTED, True, judgement.reason, judgement.message),
        _registered(world),
        _live(world),
    ]
    conditions += [one for one in (_cloned(world), _certified(world)) if one is not None]
    known = (view.admitted, view.registered, view.live, view.cloned, view.certified)
    if any(condition not in known for condition in conditions):
        wanted["conditions"] = _conditions(world, conditions)
    if world.signed is not None and _awaits_certificate(world):  # else another controller was faster
        wanted |= _certificate(world)
    if world.sealed is not None:
        wanted["credential"] = world.sealed
    elif world.beaten and view.credential is not None:
        wanted["credential"] = None
    workload = {"uid": _uid(world.workload), "ports": list(workload_ports(world.workload))}
    if workload != {"uid": view.workload_uid or "", "ports": list(view.workload_ports)}:
        wanted["externalWorkload"] = workload
    if world.cordoned != view.cordoned:
        wanted["cordoned"] = world.cordoned
    if world.settings_digest and world.settings_digest != view.settings:
        wanted["settings"] = world.settings_digest
    return {"status": wanted} if wanted else {}


def _registered(world: MemberWorld) -> Condition:
    fault = judge_address(world, world.group) if world.group is not None else None
    if fault is not None:
        return Condition(REGISTERED, False, fault.reason, f"no port is listed: {fault.message}")
    return Condition(REGISTERED, True, "Registered", f"ExternalWorkload {world.view.name} stands")


def _cloned(world: MemberWorld) -> Condition | None:
    """Two machines as one member are told to both, and to the admin."""
    if world.clones is not None:
        boots = " and ".join(boot.partition(".")[2] or boot for boot in world.clones)
        return Condition(
            CLONED,
            True,
            "TwoMachines",
            f"two machines take turns as this member, boots {boots}: evict it, and join each with a token of its own "
            "after rm /etc/machine-id && systemd-machine-id-setup",
        )
    if world.view.cloned is not None:
        return Condition(CLONED, False, "OneMachine", "one machine is heard")
    return None


def _awaits_certificate(world: MemberWorld) -> bool:
    view = world.view
    return bool(view.csr) and csr_sha256(view.csr) != (view.certificate.csr_sha256 if view.certificate else "")


def _signing_fault(world: MemberWorld) -> tuple[str, str] | None:
    """Why its CSR is not signed, as reason and message; None if it may be."""
    if world.guard_fault is not None:
        return "GuardMissing", world.guard_fault
    if world.mesh is not None and world.mesh.issuer_ends <= world.now:
        return "IssuerExpired", ISSUER_EXPIRED
    try:
        read_csr(world.view.csr)
    except ValueError as problem:
        return "RequestRefused", str(problem)
    return None


def _certified(world: MemberWorld) -> Condition | None:
    """A certificate that is asked for in vain is told, and that it is no longer so."""
    fault = _signing_fault(world) if _awaits_certificate(world) and world.signed is None else None
    if fault is not None:
        reason, message = fault
        return Condition(CERTIFIED, False, reason, f"no certificate is signed: {message}")
    if world.view.certified is not None and (world.signed is not None or not _awaits_certificate(world)):
        return Condition(CERTIFIED, True, "Certified", "its certificates are signed")
    return None


def _live(world: MemberWorld) -> Condition:
    if world.live:
        return Condition(LIVE, True, "HeartbeatsArrive", "its Lease is being renewed")
    if world.beaten:
        return Condition(LIVE, False, NOT_LIVE, "its Lease has not been renewed for three intervals")
    return Condition(LIVE, False, "NoHeartbeat", "its Lease has never been renewed")


def _certificate(world: MemberWorld) -> dict[str, Any]:
    signed = world.signed
    assert signed is not None
    issued = world.status.get("issued")
    record = {"serial": f"{signed.serial:x}", "keySha256": signed.key_sha256, "time": rfc3339(world.now)}
    return {
        "certificate": {
            "csrSha256": signed.csr_sha256,
            "chain": signed.chain,
            "notAfter": rfc3339(signed.not_after),
        },
        "issued": [*(issued if isinstance(issued, list) else []), record][-KEPT_ISSUED:],
    }


def _conditions(world: MemberWorld, conditions: list[Condition]) -> list[Object]:
    found: Any = world.status.get("conditions")
    listed = list(found) if isinstance(found, list) else []
    known = read_conditions(listed)
    for condition in conditions:
        if condition not in known:
            listed = with_condition(listed, condition, world.now)
    return listed


def _age(world: MemberWorld) -> float:
    """Seconds since the Member was created."""
    created = epoch(str(world.member["metadata"].get("creationTimestamp") or ""))
    return 0.0 if created is None else world.now - created


def _uid(workload: Mapping[str, Any] | None) -> str:
    return str(((workload or {}).get("metadata") or {}).get("uid") or "")
