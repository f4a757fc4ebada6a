"""Whether a machine may be a member, and if not, why: for the machine and for the admin. Pure.

A Member that was admitted stays so; only deletion ends it. Reasons are fixed words, which the joining machine turns
into its own error; messages are for a person and name the remedy.
"""

from dataclasses import dataclass

from exclave.api.csr import read_csr
from exclave.api.delivery import read_delivery_key
from exclave.api.member import MemberView
from exclave.api.names import group_of_member
from exclave.controller.policy.claims import lies_within, neighbour_of, plain_address
from exclave.controller.policy.snapshot import Group, MemberWorld, Neighbour

ABANDONED_AFTER = 600.0
"""Seconds after which a Member that was refused, or never sent a heartbeat, is deleted: its name is free again."""


ISSUER_EXPIRED = "the issuer's certificate, or one above it, has expired: nobody can be certified before it is renewed"


@dataclass(frozen=True)
class Judgement:
    """`reason` is Admitted, or why not."""

    admitted: bool
    reason: str
    message: str


def judge(world: MemberWorld) -> Judgement:
    """Judge a Member that is not being deleted."""
    view, group = world.view, world.group
    if view.admitted is not None and view.admitted.status:
        return Judgement(True, view.admitted.reason, view.admitted.message)
    if world.guard_fault is not None:
        return Judgement(False, "GuardMissing", world.guard_fault)
    if group is None:
        name = group_of_member(view.name)
        return Judgement(False, "GroupNotFound", f"there is no WorkloadGroup {name} in namespace {world.namespace}")
    if world.group_refusal is not None:
        return Judgement(False, "GroupNotAccepted", f"group {group.name} takes no new members: {world.group_refusal}")
    refusal = _judge_keys(view) or _judge_machine(world) or judge_address(world, group) or _judge_mesh(world)
    return refusal or Judgement(True, "Admitted", f"a member of group {group.name}")


def _judge_mesh(world: MemberWorld) -> Judgement | None:
    """Whoever nobody can certify waits: this reason is no refusal to a machine, which goes on asking for a while."""
    if world.mesh is None:
        return Judgement(False, "NotReady", world.mesh_fault or "the controller can certify nobody yet")
    if world.mesh.issuer_ends <= world.now:
        return Judgement(False, "NotReady", ISSUER_EXPIRED)
    return None


def _judge_keys(view: MemberView) -> Judgement | None:
    """A CSR or delivery key that could not be used later is refused now, while somebody watches."""
    try:
        read_csr(view.csr)
        read_delivery_key(view.delivery_key)
    except ValueError as problem:
        return Judgement(False, "RequestRefused", str(problem))
    return None


def judge_address(world: MemberWorld, group: Group) -> Judgement | None:
    """Why a Member may not have the address that it says it has; None if it may. Asked for as long as it lives."""
    view = world.view
    if len(view.addresses) != 1:
        return Judgement(False, "AddressRefused", f"one address was expected, found {len(view.addresses)}")
    said, networks = view.addresses[0], ", ".join(group.spec.networks)
    try:
        address = plain_address(said)
        is_ours = lies_within(address, group.spec.networks)
    except ValueError:
        return Judgement(False, "AddressRefused", f"{said!r} is not an address, or one of {networks} no network")
    if not is_ours:
        return Judgement(False, "AddressRefused", f"{address} lies in none of the group's networks: {networks}")
    mine = _mine(world, group)
    for other in world.neighbours:
        if other.holds(address) and not (mine.holds(address) and mine.place_at(address) < other.place_at(address)):
            return Judgement(
                False,
                "AddressInUse",
                f"{address} is the address of the living member {other.name}. If that is gone: {_evict(other)}",
            )
    return None


def is_listed_elsewhere(world: MemberWorld, group: Group) -> bool:
    """Whether pods are still told of another Member's ports at this one's address: two would break each lookup of it.

    That passes: whoever may not have the address loses its ports at the next look.
    """
    mine = _mine(world, group)
    return any(
        other.is_listed_at(mine.address) and other.place_at(mine.address) < mine.place_at(mine.address)
        for other in world.neighbours
    )


def _mine(world: MemberWorld, group: Group) -> Neighbour:
    return neighbour_of(world.member, world.workload, group, live=world.live)


def _judge_machine(world: MemberWorld) -> Judgement | None:
    view = world.view
    for other in world.neighbours:
        if other.lives and other.machine_hash == view.machine_hash:
            return Judgement(
                False,
                "MachineKnown",
                f"{view.name} and the living member {other.name} are the same machine: a clone, or one that was "
                f"reinstalled. If {other.name} is gone: {_evict(other)}",
            )
    return None


def _evict(other: Neighbour) -> str:
    return f"kubectl exclave member evict {other.name} -n {other.namespace}"
