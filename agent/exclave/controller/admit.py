"""Whether a machine may be a member, and if not, why: for the machine and for the admin. Pure.

A Member that was admitted stays so; only deletion ends it. Reasons are fixed words, which the joining machine turns
into its own error; messages are for a person and name the remedy.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from exclave.controller.world import Group, MemberWorld, Neighbour
from exclave.identity.csr import read_csr
from exclave.join.delivery import read_delivery_key
from exclave.member.spec import MemberView

ABANDONED_AFTER = 600.0
"""Seconds after which a Member that was refused, or never sent a heartbeat, is deleted: its name is free again."""


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
        name = view.name.rsplit("-", 2)[0]
        return Judgement(False, "GroupNotFound", f"there is no WorkloadGroup {name} in namespace {world.namespace}")
    if world.group_refusal is not None:
        return Judgement(False, "GroupNotAccepted", f"group {group.name} takes no new members: {world.group_refusal}")
    refusal = _judge_keys(view) or _judge_machine(world) or judge_address(world, group)
    return refusal or Judgement(True, "Admitted", f"a member of group {group.name}")


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
    address, networks = view.addresses[0], ", ".join(group.spec.networks)
    try:
        lies_within = any(ip_address(address) in ip_network(network) for network in group.spec.networks)
    except ValueError:
        return Judgement(False, "AddressRefused", f"{address!r} is not an address, or one of {networks} no network")
    if not lies_within:
        return Judgement(False, "AddressRefused", f"{address} lies in none of the group's networks: {networks}")
    for other in _others(world):
        if other.address == address:
            return Judgement(
                False,
                "AddressInUse",
                f"{other.address} is the address of the living member {other.name}. If that is gone: {_evict(other)}",
            )
    return None


def _judge_machine(world: MemberWorld) -> Judgement | None:
    view = world.view
    for other in _others(world):
        if other.machine_hash == view.machine_hash:
            return Judgement(
                False,
                "MachineKnown",
                f"{view.name} and the living member {other.name} are the same machine: a clone, or one that was "
                f"reinstalled. If {other.name} is gone: {_evict(other)}",
            )
    return None


def _others(world: MemberWorld) -> list[Neighbour]:
    here = (world.namespace, world.view.name)
    return [other for other in world.neighbours if (other.namespace, other.name) != here]


def _evict(other: Neighbour) -> str:
    return f"kubectl exclave member evict {other.name} -n {other.namespace}"
