"""Whether a machine may be a member, and if not, why: for the machine and for the admin. Pure.

A Member that was admitted stays so; only deletion ends it. Reasons are fixed words, which the joining machine turns
into its own error; messages are for a person and name the remedy.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from exclave.controller.world import Group, MemberWorld
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
    if group is None:
        name = view.name.rsplit("-", 2)[0]
        return Judgement(False, "GroupNotFound", f"there is no WorkloadGroup {name} in namespace {world.namespace}")
    if len(view.addresses) != 1:
        return Judgement(False, "AddressRefused", f"one address was expected, found {len(view.addresses)}")
    refusal = _judge_keys(view) or _judge_address(view.addresses[0], group) or _judge_neighbours(world)
    return refusal or Judgement(True, "Admitted", f"a member of group {group.name}")


def _judge_keys(view: MemberView) -> Judgement | None:
    """A CSR or delivery key that could not be used later is refused now, while somebody watches."""
    try:
        read_csr(view.csr)
        read_delivery_key(view.delivery_key)
    except ValueError as problem:
        return Judgement(False, "RequestRefused", str(problem))
    return None


def _judge_address(address: str, group: Group) -> Judgement | None:
    networks = ", ".join(group.spec.networks)
    try:
        if any(ip_address(address) in ip_network(network) for network in group.spec.networks):
            return None
    except ValueError:
        return Judgement(False, "AddressRefused", f"{address!r} is not an address, or one of {networks} no network")
    return Judgement(False, "AddressRefused", f"{address} lies in none of the group's networks: {networks}")


def _judge_neighbours(world: MemberWorld) -> Judgement | None:
    view = world.view
    for other in world.neighbours:
        if (other.namespace, other.name) == (world.namespace, view.name):
            continue
        evict = f"kubectl exclave member evict {other.name} -n {other.namespace}"
        if other.machine_hash == view.machine_hash:
            return Judgement(
                False,
                "MachineKnown",
                f"{view.name} and the living member {other.name} are the same machine: a clone, or one that was "
                f"reinstalled. If {other.name} is gone: {evict}",
            )
        if other.address == view.addresses[0]:
            return Judgement(
                False,
                "AddressInUse",
                f"{other.address} is the address of the living member {other.name}. If that is gone: {evict}",
            )
    return None
