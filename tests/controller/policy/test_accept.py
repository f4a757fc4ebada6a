"""Which groups are accepted, and what is written to their status."""

from typing import Any

import pytest

from exclave.api.group import namespace_fault
from exclave.api.member import Condition, make_condition
from exclave.api.requests import Object
from exclave.controller.policy.accept import GroupPatches, GroupRights, accepted_condition, group_patches

NOW = 1_800_000_000.0
ACCEPTED = Condition("Accepted", True, "Accepted", "it takes members")
OURS_ALONE = GroupRights(())
HELD = {"finalizers": ["exclave.dev/group"]}


def group(name: str = "web", created: str = "2026-01-02T03:04:05Z", **more: Any) -> Object:
    metadata = {"name": name, "namespace": "shop", "creationTimestamp": created, **more.pop("metadata", {})}
    return {"metadata": metadata, "spec": {"networks": ["10.77.0.0/24"], **more}}


OLDER = group("api", "2026-01-01T00:00:00Z", serviceAccount="web")
SCENARIOS: dict[str, tuple[Object, list[Object], Condition]] = {
    "one that can be used": (group(), [group()], ACCEPTED),
    "one whose spec cannot be used": (
        group(networks=["10.77.0.1/24"]), [],
        Condition("Accepted", False, "Invalid", "its spec cannot be used, the last good one is kept: "
                  "networks: 10.77.0.1/24 has host bits set"),
    ),
    "the younger of two with one account": (
        group(), [group(), OLDER],
        Condition("Accepted", False, "AccountShared", "group api has ServiceAccount web already, and two groups with "
                  "one identity would be one: name another in spec.serviceAccount"),
    ),
    "one beside others of another shape": (
        group(), [{"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}
                  for name, spec in (("a", 7), ("b", ["x"]), ("c", {"serviceAccount": 7}), ("d", None))], ACCEPTED,
    ),
    "one that is of another shape itself": (
        {**group(), "spec": ["x"]}, [],
        Condition("Accepted", False, "Invalid", "its spec cannot be used, the last good one is kept: "
                  "spec: a mapping was expected, found list"),
    ),
    "the older of two with one account": (OLDER, [group(), OLDER], ACCEPTED),
    "one that is being deleted": (
        group(metadata={"deletionTimestamp": "now"}), [],
        Condition("Accepted", False, "Deleting", "it goes when its members have gone: 2 left; "
                  "kubectl exclave member list"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "others", "condition"), SCENARIOS.values(), ids=SCENARIOS)
def test_a_group_is_accepted_or_has_a_reason(found: Object, others: list[Object], condition: Condition) -> None:
    assert accepted_condition(found, others, OURS_ALONE, members=2, refused_namespace=False) == condition


def test_a_group_in_a_refused_namespace_is_not_accepted() -> None:
    assert accepted_condition(group(), [], OURS_ALONE, members=0, refused_namespace=True) == Condition(
        "Accepted", False, "NamespaceRefused", "machines have no business in namespace shop: give them their own"
    )


TEAM = {
    "metadata": {"name": "team"},
    "roleRef": {"kind": "ClusterRole", "name": "admin"},
    "subjects": [{"kind": "User", "name": "eve"}],
}
SHARED = (
    "NamespaceShared", "others have rights in namespace shop-vms, so they can be any of its machines: RoleBinding team "
    "(ClusterRole admin): User eve; to do: delete these, or accept them: "
    "kubectl exclave group create web -n shop --adopt",
)  # fmt: skip
RIGHTS: dict[str, tuple[GroupRights, dict[str, str], tuple[str, str]]] = {
    "nobody else's": (OURS_ALONE, {}, ("Accepted", "it takes members")),
    "others'": (GroupRights((TEAM,)), {}, SHARED),
    "others', which an admin has accepted": (
        GroupRights((TEAM,)), {"exclave.dev/adopted": "ops, team"}, ("Accepted", "it takes members"),
    ),
    "others', of which an admin has accepted one": (
        GroupRights((TEAM, {**TEAM, "metadata": {"name": "ops"}})), {"exclave.dev/adopted": "ops"}, SHARED,
    ),
    "unread": (
        GroupRights(), {}, ("NotReady", "the controller has not read yet who has rights in namespace shop-vms"),
    ),
    "not all of the controller's": (
        GroupRights((), "it may not patch"), {},
        ("RightsMissing", "a part of its Roles is missing: it may not patch; to do: kubectl exclave upgrade"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rights", "annotations", "words"), RIGHTS.values(), ids=RIGHTS)
def test_rights_in_the_namespace_of_its_machines_accounts(
    rights: GroupRights, annotations: dict[str, str], words: tuple[str, str]
) -> None:
    found = group(metadata={"annotations": annotations})
    condition = accepted_condition(found, [], rights, members=0, refused_namespace=False)
    assert (condition.reason, condition.message) == words
    assert condition.status is (words[0] == "Accepted")


def test_a_shared_account_is_the_reason_before_rights_since_no_certificate_is_signed_then() -> None:
    condition = accepted_condition(group(), [OLDER], GroupRights((TEAM,)), members=0, refused_namespace=False)
    assert condition.reason == "AccountShared"


@pytest.mark.parametrize(
    ("namespace", "refused"),
    [
        ("shop", False), ("default", True), ("kube-system", True), ("exclave", True), ("linkerd", True),
        ("shop-vms", True),
    ],
)  # fmt: skip
def test_control_planes_and_accounts_are_left_alone(namespace: str, refused: bool) -> None:
    assert (namespace_fault(namespace, "exclave", "linkerd") is not None) is refused


def test_a_group_gets_finalizer_and_condition_once() -> None:
    work = group_patches(group(), [ACCEPTED], members=0, now=NOW)
    assert work.metadata == {"metadata": HELD}
    assert work.status == {"status": {"conditions": [make_condition(ACCEPTED, NOW)]}}
    reported = {**group(metadata=HELD), **work.status}
    assert group_patches(reported, [ACCEPTED], members=0, now=NOW + 5) == GroupPatches(None, None)


def test_a_group_may_have_several_conditions_and_one_alone_can_change() -> None:
    other = Condition("Other", True, "Fine", "it is fine")
    both = group_patches(group(metadata=HELD), [ACCEPTED, other], members=0, now=NOW).status
    assert both == {"status": {"conditions": [make_condition(ACCEPTED, NOW), make_condition(other, NOW)]}}
    worse = Condition("Other", False, "Bad", "it is not")
    changed = group_patches({**group(metadata=HELD), **both}, [ACCEPTED, worse], members=0, now=NOW + 5).status
    assert changed == {"status": {"conditions": [make_condition(ACCEPTED, NOW), make_condition(worse, NOW + 5)]}}


@pytest.mark.parametrize(
    ("members", "is_released"),
    [
        pytest.param(1, False, id="one with members"),
        pytest.param(0, True, id="one without members"),
    ],
)
def test_a_deleted_group_is_released_after_its_last_member(members: int, is_released: bool) -> None:
    found = group(metadata={"deletionTimestamp": "now", "finalizers": ["a.b/c", "exclave.dev/group"]})
    condition = accepted_condition(found, [], OURS_ALONE, members=members, refused_namespace=False)
    work = group_patches(found, [condition], members=members, now=NOW)
    assert work.metadata == ({"metadata": {"finalizers": ["a.b/c"]}} if is_released else None)
    assert work.releases is is_released
