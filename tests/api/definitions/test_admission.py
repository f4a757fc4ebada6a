"""The policies as objects. tests/peers tries what they refuse on real API servers."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from exclave.api.definitions.admission import (
    CONTROLLER_POLICY,
    GROUP_LABEL,
    MACHINES_POLICY,
    PORTS_FINALIZER,
    admission_fault,
    admission_objects,
    first_fault,
)
from exclave.api.requests import Object
from exclave.controller.policy import register

OBJECTS = admission_objects("exclave")
POLICIES = {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] == "ValidatingAdmissionPolicy"}


def spec(name: str) -> dict[str, Any]:
    found: Object = POLICIES[name]["spec"]
    return dict(found)


def test_each_policy_is_bound_and_denies() -> None:
    bindings = [found for found in OBJECTS if found["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert {found["spec"]["policyName"] for found in bindings} == set(POLICIES) == {MACHINES_POLICY, CONTROLLER_POLICY}
    assert all(
        found["spec"] == {"policyName": found["metadata"]["name"], "validationActions": ["Deny"]} for found in bindings
    )


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_a_policy_fails_closed_and_has_no_parameters_that_could_be_missing(name: str) -> None:
    assert spec(name)["failurePolicy"] == "Fail"
    assert "paramKind" not in spec(name)


def test_the_guard_is_for_every_account_of_machines_namespaces_whatever_its_shape() -> None:
    (condition,) = spec(MACHINES_POLICY)["matchConditions"]
    assert condition["expression"] == (
        "request.userInfo.username.startsWith('system:serviceaccount:') && "
        "request.userInfo.username.split(':')[2].endsWith('-vms')"
    )


def test_the_limits_are_for_the_controller_of_this_installation() -> None:
    (condition,) = [
        found["spec"]["matchConditions"][0]
        for found in admission_objects("elsewhere")
        if found["metadata"]["name"] == CONTROLLER_POLICY and "matchConditions" in found["spec"]
    ]
    assert condition["expression"].endswith("'system:serviceaccount:elsewhere:exclave-controller'")


def test_the_policy_covers_all_that_a_machine_may_write_in_every_version() -> None:
    rules = spec(MACHINES_POLICY)["matchConstraints"]["resourceRules"]
    watched = {f"{rule['apiGroups'][0]}/{resource}" for rule in rules for resource in rule["resources"]}
    assert watched >= {
        "exclave.dev/members",
        "workload.linkerd.io/externalworkloads/status",
        "coordination.k8s.io/leases",
        "/serviceaccounts/token",
    }
    assert all(rule["apiVersions"] == ["*"] and rule["operations"] == ["CREATE", "UPDATE", "DELETE"] for rule in rules)


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_expressions_name_no_variable_that_is_not_there(name: str) -> None:
    existing = [variable["name"] for variable in spec(name).get("variables", [])]
    for number, variable in enumerate(spec(name).get("variables", [])):
        assert set(re.findall(r"variables\.(\w+)", variable["expression"])) <= set(existing[:number])
    for validation in spec(name)["validations"]:
        assert set(re.findall(r"variables\.(\w+)", validation["expression"])) <= set(existing)


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_a_subresource_is_read_only_where_there_is_one(name: str) -> None:
    for variable in spec(name)["variables"]:
        if "request.subResource" in variable["expression"]:
            assert variable["expression"].startswith("has(request.subResource) && ")


@pytest.mark.parametrize("name", [MACHINES_POLICY, CONTROLLER_POLICY])
def test_messages_are_sentences_for_people(name: str) -> None:
    for validation in spec(name)["validations"]:
        assert len(validation["message"].split()) >= 5
        assert "variables." not in validation["message"]


def test_what_marks_an_external_workload_is_what_the_controller_writes() -> None:
    assert (GROUP_LABEL, PORTS_FINALIZER) == (register.GROUP_LABEL, register.PORTS_FINALIZER)


def test_the_policy_covers_all_that_the_controller_creates_or_deletes() -> None:
    rules = spec(CONTROLLER_POLICY)["matchConstraints"]["resourceRules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {
        "members", "workloadgroups", "externalworkloads", "externalworkloads/status", "leases", "serviceaccounts",
        "serviceaccounts/token", "configmaps",
    }  # fmt: skip


# Policies as a cluster may hold them: as installed, with its defaults, and loosened by somebody.

POLICY, BINDING = "ValidatingAdmissionPolicy exclave-guard", "ValidatingAdmissionPolicyBinding exclave-guard"
AGAIN = "an admin installs it again: kubectl exclave upgrade"
OTHERWISE = f"is not as this version of exclave installs it; {AGAIN}"


def installed() -> dict[str, Object]:
    """As an API server returns them."""
    found = {f"{one['kind']} {one['metadata']['name']}": copy.deepcopy(one) for one in OBJECTS}
    for one in found.values():
        one["metadata"] |= {"uid": "u", "generation": 1}
        if "matchConstraints" in one["spec"]:
            one["status"] = {"observedGeneration": 1}
            constraints = one["spec"]["matchConstraints"]
            constraints |= {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}
            for rule in constraints["resourceRules"]:
                rule["scope"] = "*"
    return found


def spec_of(name: str) -> Callable[[dict[str, Object]], Any]:
    return lambda found: found[name]["spec"]


CHANGES: dict[str, tuple[Callable[[dict[str, Object]], Any], str | None]] = {
    "as an API server returns them": (lambda found: None, None),
    "a policy is gone": (lambda found: found.pop(POLICY), f"{POLICY} is missing; {AGAIN}"),
    "its binding is gone": (lambda found: found.pop(BINDING), f"{BINDING} is missing; {AGAIN}"),
    "it is being deleted": (
        lambda found: found[POLICY]["metadata"].update(deletionTimestamp="now"), f"{POLICY} is missing; {AGAIN}",
    ),
    "it fails open": (lambda found: found[POLICY]["spec"].update(failurePolicy="Ignore"), f"{POLICY} {OTHERWISE}"),
    "it has a rule less": (lambda found: found[POLICY]["spec"]["validations"].pop(), f"{POLICY} {OTHERWISE}"),
    "it has a condition more": (
        lambda found: found[POLICY]["spec"]["matchConditions"].append({"name": "x", "expression": "false"}),
        f"{POLICY} {OTHERWISE}",
    ),
    "it covers some namespaces only": (
        lambda found: found[POLICY]["spec"]["matchConstraints"].update(namespaceSelector={"matchLabels": {"a": "b"}}),
        f"{POLICY} {OTHERWISE}",
    ),
    "it excludes a resource": (
        lambda found: found[POLICY]["spec"]["matchConstraints"].update(excludeResourceRules=[{}]),
        f"{POLICY} {OTHERWISE}",
    ),
    "its binding warns only": (
        lambda found: found[BINDING]["spec"].update(validationActions=["Warn"]), f"{BINDING} {OTHERWISE}",
    ),
    "its binding is for some resources": (
        lambda found: found[BINDING]["spec"].update(matchResources={"namespaceSelector": {}}),
        f"{BINDING} {OTHERWISE}",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "fault"), CHANGES.values(), ids=CHANGES)
def test_what_is_wrong_with_them_is_named(change: Callable[[dict[str, Object]], Any], fault: str | None) -> None:
    found = installed()
    change(found)
    assert admission_fault(found.values(), OBJECTS) == fault
    concerned = first_fault(found.values(), OBJECTS)
    assert (concerned is None) if fault is None else (concerned is not None and fault == concerned[1])
    assert concerned is None or fault is None or fault.startswith(f"{concerned[0]['kind']} exclave-guard ")
