"""Decides whether a WorkloadGroup is accepted: if not, it gets no new members, and its members continue. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exclave.api.definitions.account_rights import adopted_names, bindings_text, not_adopted
from exclave.api.group import account_of, name_fault, parse_group, spec_faults
from exclave.api.malformed import MALFORMED, fault_text, mapping_in
from exclave.api.member import Condition, read_conditions, with_condition
from exclave.api.names import GROUP_FINALIZER, accounts_namespace
from exclave.api.requests import Object

ACCEPTED = "Accepted"
NAMESPACE_REFUSED = "NamespaceRefused"  # reason: no group may be in its namespace
ACCOUNT_SHARED = "AccountShared"  # reason: an older group has the same ServiceAccount
NAMESPACE_SHARED = "NamespaceShared"  # reason: others have rights in the namespace of its machines' accounts
RIGHTS_MISSING = "RightsMissing"  # reason: the controller lacks a right that the group's Roles give
RIGHTS_UNREAD = "NotReady"  # reason: it has not read yet who has rights

WAITING = (RIGHTS_MISSING, RIGHTS_UNREAD)  # reasons for which a machine that joins waits: they may end soon


@dataclass(frozen=True)
class GroupRights:
    """`foreign`: RoleBindings of others among its machines' accounts, None if unread. `fault`: a right that we lack."""

    foreign: tuple[Object, ...] | None = None
    fault: str | None = None


@dataclass(frozen=True)
class GroupPatches:
    """Merge patches of metadata and status; None without a change. `releases`: the patch lets the group be deleted."""

    metadata: Object | None
    status: Object | None
    releases: bool = False


def accepted_condition(
    group: Object, others: Iterable[Object], rights: GroupRights, *, members: int, refused_namespace: bool
) -> Condition:
    """Condition Accepted. `others`: groups in its namespace. `refused_namespace`: it may contain no groups."""
    metadata = group["metadata"]
    if metadata.get("deletionTimestamp"):
        return _no("Deleting", f"it goes when its members have gone: {members} left; kubectl exclave member list")
    if refused_namespace:
        return _no(
            NAMESPACE_REFUSED, f"machines have no business in namespace {metadata['namespace']}: give them their own"
        )
    if (why := name_fault(metadata["name"])) is not None:
        return _no("Invalid", f"{metadata['name']!r} {why}")
    try:
        spec = parse_group(metadata["name"], group.get("spec") or {})
    except MALFORMED as problem:
        return _no("Invalid", f"its spec cannot be used, the last good one is kept: {fault_text(problem)}")
    if faults := spec_faults(spec, mapping_in(group, "spec")):
        return _no("Invalid", f"it takes no new members: {'; '.join(faults)}")
    # Two groups with one account would have one identity, and a group is the boundary of trust.
    account = spec.service_account
    for other in others:
        if other["metadata"]["name"] != metadata["name"] and account_of(other) == account and _age(other) < _age(group):
            return _no(
                ACCOUNT_SHARED,
                f"group {other['metadata']['name']} has ServiceAccount {account} already, and two groups with one "
                "identity would be one: name another in spec.serviceAccount",
            )
    return _rights_refusal(group, rights) or Condition(ACCEPTED, True, "Accepted", "it takes members")


def _rights_refusal(group: Object, rights: GroupRights) -> Condition | None:
    namespace, name = group["metadata"]["namespace"], group["metadata"]["name"]
    accounts = accounts_namespace(namespace)
    if rights.fault is not None:
        return _no(RIGHTS_MISSING, f"a part of its Roles is missing: {rights.fault}; to do: kubectl exclave upgrade")
    if rights.foreign is None:
        return _no(RIGHTS_UNREAD, f"the controller has not read yet who has rights in namespace {accounts}")
    if foreign := not_adopted(rights.foreign, adopted_names(group)):
        return _no(
            NAMESPACE_SHARED,
            f"others have rights in namespace {accounts}, so they can be any of its machines: "
            f"{bindings_text(foreign)}; to do: delete these, or accept them: "
            f"kubectl exclave group create {name} -n {namespace} --adopt",
        )
    return None


def group_patches(group: Object, conditions: Iterable[Condition], *, members: int, now: float) -> GroupPatches:
    """The patches that set these conditions, and the finalizer while the group has members."""
    finalizers = list(group["metadata"].get("finalizers") or [])
    deleting = bool(group["metadata"].get("deletionTimestamp"))
    held = GROUP_FINALIZER in finalizers
    metadata: Object | None = None
    if not deleting and not held:
        metadata = {"metadata": {"finalizers": [*finalizers, GROUP_FINALIZER]}}
    elif deleting and held and not members:
        left = [one for one in finalizers if one != GROUP_FINALIZER]
        return GroupPatches({"metadata": {"finalizers": left}}, None, releases=True)
    found: Any = (group.get("status") or {}).get("conditions")
    listed, before = found if isinstance(found, list) else [], read_conditions(found)
    changed = [condition for condition in conditions if condition not in before]
    for condition in changed:
        listed = with_condition(listed, condition, now)
    return GroupPatches(metadata, {"status": {"conditions": listed}} if changed else None)


def _no(reason: str, message: str) -> Condition:
    return Condition(ACCEPTED, False, reason, message)


def _age(group: Object) -> tuple[str, str]:
    """Sort key, the oldest group first; the name decides between groups of the same second."""
    metadata = group["metadata"]
    return str(metadata.get("creationTimestamp", "")), str(metadata["name"])
