"""The definitions: complete by Kubernetes' own rules for structural schemas, and readable in a table."""

from collections.abc import Iterator
from typing import Any

import pytest

from exclave.api.definitions.crds import custom_resource_definitions
from exclave.api.requests import MEMBERS, WORKLOAD_GROUPS

CRDS = {found["spec"]["names"]["kind"]: found for found in custom_resource_definitions()}


def version(kind: str) -> dict[str, Any]:
    (only,) = CRDS[kind]["spec"]["versions"]
    assert isinstance(only, dict)
    return only


def test_both_kinds_are_defined_as_the_code_asks_for_them() -> None:
    for resource in (WORKLOAD_GROUPS, MEMBERS):
        spec = CRDS[resource.kind]["spec"]
        assert (spec["group"], spec["names"]["plural"], spec["scope"]) == (
            resource.group,
            resource.plural,
            "Namespaced",
        )
        assert version(resource.kind)["name"] == resource.version
        assert CRDS[resource.kind]["metadata"]["name"] == f"{resource.plural}.{resource.group}"


@pytest.mark.parametrize("kind", CRDS)
def test_the_status_is_a_subresource(kind: str) -> None:
    assert version(kind)["subresources"] == {"status": {}}


def parts(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{place}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from parts(schema[key], f"{place}[]")


@pytest.mark.parametrize("kind", CRDS)
def test_every_schema_is_structural_and_nothing_is_dropped_in_silence(kind: str) -> None:
    for place, schema in parts(version(kind)["schema"]["openAPIV3Schema"]):
        assert schema["type"] in ("object", "array", "string", "integer", "boolean"), place
        if schema["type"] == "array":
            assert "items" in schema, place
        if schema["type"] == "object" and place != ".metadata":
            assert "properties" in schema or "additionalProperties" in schema, place


@pytest.mark.parametrize("kind", CRDS)
def test_columns_show_fields_that_are_there(kind: str) -> None:
    existing = {place for place, _ in parts(version(kind)["schema"]["openAPIV3Schema"])}
    for column in version(kind)["additionalPrinterColumns"]:
        path = column["jsonPath"].split("[")[0]
        assert path in existing or path == ".metadata.creationTimestamp", column


def test_what_a_machine_stated_when_it_joined_cannot_be_changed() -> None:
    spec = version("Member")["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fixed = {name for name, schema in spec.items() if "oldSelf" in str(schema)}
    assert fixed == {"nonce", "machineHash", "deliveryKey"}
