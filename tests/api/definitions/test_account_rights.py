"""Whose RoleBindings among machines' accounts count as foreign, and what a person reads about them."""

from typing import Any

import pytest

from exclave.admin.objects import group_objects
from exclave.api.definitions.account_rights import (
    adopted_names,
    adopted_text,
    bindings_text,
    foreign_bindings,
    not_adopted,
)
from exclave.api.requests import ROLE_BINDINGS, Object

ACCOUNTS = "shop-vms"


def binding(name: str = "team", role: str = "admin", *subjects: Object, kind: str = "ClusterRole") -> Object:
    found = list(subjects) or [{"kind": "User", "name": "eve"}]
    return {"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role}, "subjects": found}


def installed() -> list[Object]:
    wanted = group_objects("shop", "web", {}, "mesh-vms-controller")
    return [one.body for one in wanted if one.resource is ROLE_BINDINGS and one.namespace == ACCOUNTS]


def names(*bindings: Object) -> list[str]:
    return [one["metadata"]["name"] for one in foreign_bindings(bindings, ACCOUNTS, "mesh-vms-controller")]


def test_what_a_group_is_created_with_is_not_foreign() -> None:
    ours = installed()
    assert {one["metadata"]["name"] for one in ours} == {"exclave-machines", "exclave-controller"}
    assert names(*ours) == []
    assert names(*({**one, "subjects": None} for one in ours)) == [], "it gives nobody a right"


EVE = {"kind": "User", "name": "eve"}
CHANGED: dict[str, dict[str, Any]] = {
    "one more subject": {"subjects": [*installed()[0]["subjects"], EVE]},
    "another subject": {"subjects": [EVE]},
    "the accounts of another namespace": {"subjects": [{"kind": "Group", "name": "system:serviceaccounts:lab-vms"}]},
    "another role": {"roleRef": {"kind": "Role", "name": "other"}},
    "a ClusterRole of this name": {"roleRef": {"kind": "ClusterRole", "name": "exclave-machines"}},
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_one_of_ours_that_somebody_has_changed_is_foreign(change: dict[str, Any]) -> None:
    assert names(installed()[0]) == []
    assert names({**installed()[0], **change}) == ["exclave-machines"]


def test_the_controller_of_another_namespace_is_foreign() -> None:
    bindings = [one.body for one in group_objects("shop", "web", {}, "elsewhere") if one.resource is ROLE_BINDINGS]
    there = [one for one in bindings if one["metadata"]["namespace"] == ACCOUNTS]
    assert names(*there) == ["exclave-controller"]


def test_every_other_binding_is_foreign() -> None:
    assert names(binding(), binding("exclave-settings.web", "exclave-settings.web", kind="Role")) == [
        "team",
        "exclave-settings.web",
    ]


@pytest.mark.parametrize("shape", [{}, {"metadata": None}, {"metadata": {"name": "exclave-machines"}, "subjects": 7}])
def test_a_binding_of_another_shape_is_foreign(shape: Object) -> None:
    assert foreign_bindings([shape], ACCOUNTS, "exclave") == [shape]
    assert bindings_text([shape]).startswith("RoleBinding ")


def test_an_admin_accepts_bindings_by_their_names() -> None:
    foreign = [binding("team"), binding("ops"), binding("system:image-pullers")]
    listed = adopted_text(foreign[:2])
    assert listed == "ops,team"
    group = {"metadata": {"name": "web", "annotations": {"exclave.dev/adopted": f" {listed} ,"}}}
    assert [one["metadata"]["name"] for one in not_adopted(foreign, adopted_names(group))] == ["system:image-pullers"]


@pytest.mark.parametrize("annotations", [None, {}, {"exclave.dev/adopted": ""}, {"exclave.dev/adopted": 7}, 7])
def test_without_the_annotation_none_is_accepted(annotations: Any) -> None:
    assert adopted_names({"metadata": {"annotations": annotations}}) == frozenset()
    assert adopted_names(None) == frozenset()


def test_one_of_ours_that_somebody_has_changed_is_never_accepted() -> None:
    changed = {**installed()[0], "subjects": [EVE]}
    assert adopted_text([changed, binding("team")]) == "team"
    group = {"metadata": {"annotations": {"exclave.dev/adopted": "exclave-machines,exclave-controller"}}}
    assert not_adopted([changed], adopted_names(group)) == [changed]


def test_the_text_names_role_and_subjects() -> None:
    robot = {"kind": "ServiceAccount", "namespace": "tools", "name": "ci"}
    assert bindings_text([binding("team", "admin", EVE, robot), binding("ops", "edit", kind="Role")]) == (
        "RoleBinding ops (Role edit): User eve; "
        "RoleBinding team (ClusterRole admin): ServiceAccount ci in tools, User eve"
    )
    assert bindings_text([{**binding(), "subjects": []}]) == "RoleBinding team (ClusterRole admin): nobody"


def test_a_text_is_bounded_and_has_no_control_characters() -> None:
    many = [{"kind": "User", "name": f"\x1b[2J\n{number}" + "x" * 5000} for number in range(500)]
    text = bindings_text([binding(f"team-{number}", "admin", *many) for number in range(100)])
    assert text.isprintable()
    assert len(text) < 5000
    assert text.endswith(" and 95 more")
