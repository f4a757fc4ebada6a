"""What is still to be done for an object, by what stands."""

from typing import Any

import pytest

from exclave.admin.objects import Manifest
from exclave.admin.reconcile import difference, paths, plan_change
from exclave.api.requests import NAMESPACES, ROLE_BINDINGS, WORKLOAD_GROUPS


def group(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": WORKLOAD_GROUPS.api_version,
        "kind": "WorkloadGroup",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }


WANTED = Manifest(WORKLOAD_GROUPS, "shop", group(networks=["10.0.0.0/8"], labels={"app": "web"}))


def test_a_missing_object_is_created() -> None:
    step = plan_change(WANTED, None)
    assert (step.verb, str(step)) == ("create", "workloadgroup.exclave.dev/web in shop created")


def test_a_matching_object_is_unchanged_with_all_fields_of_others() -> None:
    found = group(networks=["10.0.0.0/8"], labels={"app": "web", "tier": "1"}, forgetAfter="1h")
    found["metadata"] |= {"uid": "1", "labels": {"team": "a"}}
    step = plan_change(WANTED, found)
    assert (step.verb, str(step)) == ("none", "workloadgroup.exclave.dev/web in shop unchanged")


def test_only_fields_that_differ_are_patched_and_listed() -> None:
    step = plan_change(WANTED, group(networks=["10.1.0.0/16"], labels={"app": "web"}, capture="all"))
    assert step.patch == {"spec": {"networks": ["10.0.0.0/8"]}}
    assert (step.verb, str(step)) == ("patch", "workloadgroup.exclave.dev/web in shop changed: spec.networks")


def test_a_label_of_a_namespace_is_added_and_its_spec_left_alone() -> None:
    wanted = Manifest(
        NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"x": "1"}}}
    )
    found = {"metadata": {"name": "a", "labels": {"y": "2"}}, "spec": {"finalizers": ["kubernetes"]}}
    step = plan_change(wanted, found)
    assert step.patch == {"metadata": {"labels": {"x": "1"}}}
    assert str(step) == "namespace/a changed: metadata.labels"


def test_another_role_of_a_binding_blocks_the_change() -> None:
    body = {"metadata": {"name": "b"}, "roleRef": {"name": "ours"}, "subjects": []}
    step = plan_change(Manifest(ROLE_BINDINGS, "shop", body), {**body, "roleRef": {"name": "theirs"}})
    assert step.verb == "blocked"
    assert str(step) == ("rolebinding.rbac.authorization.k8s.io/b in shop has another roleRef, which cannot be changed")


@pytest.mark.parametrize(
    ("wanted", "found", "patch"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, {}, id="what nobody spoke of is kept"),
        pytest.param({"a": {"b": None}}, {"a": {"b": 1}}, {"a": {"b": None}}, id="none removes"),
        pytest.param({"a": {"b": None}}, {"a": {}}, {}, id="none of what is absent is nothing"),
        pytest.param({"a": [1]}, {"a": [1, 2]}, {"a": [1]}, id="a list is replaced whole"),
        pytest.param({"a": {"b": 1}}, {}, {"a": {"b": 1}}, id="a tree is added whole"),
    ],
)
def test_difference(wanted: dict[str, Any], found: dict[str, Any], patch: dict[str, Any]) -> None:
    assert difference(wanted, found) == patch


def test_paths_are_two_levels_deep() -> None:
    assert paths({"spec": {"labels": {"a": "b"}, "ports": []}, "rules": []}) == ["spec.labels", "spec.ports", "rules"]
