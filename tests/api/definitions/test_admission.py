"""Policies as a cluster may hold them: as installed, with its defaults, and loosened by somebody."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from exclave.api.definitions.admission import (
    admission_fault,
    first_fault,
)
from exclave.api.definitions.manifests import admission_objects
from exclave.api.requests import Object

OBJECTS = admission_objects("exclave")

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
