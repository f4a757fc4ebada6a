"""Schemas and metadata."""

from typing import Any

import pytest

from exclave_sandbox.apiserver.kinds.schema import (
    NameRule,
    check_metadata,
    check_metadata_change,
    check_name,
    check_schema,
    fresh_metadata,
    unknown_fields,
    updated_metadata,
    with_defaults,
)

SCHEMA = {
    "type": "object",
    "required": ("name",),
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[a-z]*$"},
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "on": {"type": "boolean"},
        "mode": {"type": "string", "enum": ("x", "y")},
        "parts": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {"type": "object", "properties": {"id": {"type": "string"}}},
        },
        "free": {"type": "object"},
    },
}


@pytest.mark.parametrize(
    ("value", "mistakes"),
    [
        pytest.param({"name": "a", "size": 1, "on": True, "mode": "x", "parts": [{}]}, [], id="nothing is wrong"),
        pytest.param({}, ["spec.name: Required value"], id="a required field is missing"),
        pytest.param({"name": None}, ["spec.name: Required value"], id="a required field is null"),
        pytest.param({"name": "a", "size": None}, [], id="an optional field is null"),
        pytest.param([], ["spec: Invalid value: []: must be of type object"], id="not an object"),
        pytest.param(
            {"name": "a", "size": True}, ["spec.size: Invalid value: true: must be of type integer"], id="no number"
        ),
        pytest.param(
            {"name": "a", "on": 1}, ["spec.on: Invalid value: 1: must be of type boolean"], id="not a boolean"
        ),
        pytest.param({"name": "abcd"}, ["spec.name: Too long: may not be more than 3 bytes"], id="too long"),
        pytest.param({"name": ""}, ['spec.name: Invalid value: "": should be at least 1 chars long'], id="too short"),
        pytest.param({"name": "A"}, ["spec.name: Invalid value: \"A\": should match '^[a-z]*$'"], id="no match"),
        pytest.param(
            {"name": "a", "size": 10},
            ["spec.size: Invalid value: 10: should be less than or equal to 9"],
            id="too large",
        ),
        pytest.param(
            {"name": "a", "size": 0},
            ["spec.size: Invalid value: 0: should be greater than or equal to 1"],
            id="too small",
        ),
        pytest.param(
            {"name": "a", "mode": "z"},
            ['spec.mode: Unsupported value: "z": supported values: "x", "y"'],
            id="not one of the choices",
        ),
        pytest.param(
            {"name": "a", "parts": []}, ["spec.parts: Invalid value: 0: should have at least 1 items"], id="too few"
        ),
        pytest.param(
            {"name": "a", "parts": [{}, {}, {"id": 1}]},
            [
                "spec.parts: Too many: 3: must have at most 2 items",
                "spec.parts[2].id: Invalid value: 1: must be of type string",
            ],
            id="several mistakes, one inside a list",
        ),
    ],
)
def test_mistakes(value: Any, mistakes: list[str]) -> None:
    assert [str(cause) for cause in check_schema(value, SCHEMA, "spec")] == mistakes


def test_fields_that_the_schema_does_not_name_are_found_at_any_depth() -> None:
    value = {"name": "a", "nmae": 1, "parts": [{"id": "x"}, {"di": "x"}], "free": {"anything": 1}}
    assert list(unknown_fields(value, SCHEMA, "spec")) == ["spec.nmae", "spec.parts[1].di"]


def test_absent_fields_get_their_defaults_and_nothing_is_changed_in_place() -> None:
    fields = {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}
    ports = {"type": "array", "items": {"type": "object", "required": ["port"], "properties": fields}}
    schema = {"type": "object", "properties": {"ports": ports}}
    given = {"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}, {"port": 3, "protocol": None}], "other": 1}
    found = with_defaults(given, schema)
    assert [one["protocol"] for one in found["ports"]] == ["TCP", "UDP", "TCP"]
    assert found["other"] == 1
    assert given["ports"][0] == {"port": 1}


OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}


@pytest.mark.parametrize(
    ("name", "rule", "good"),
    [
        ("web.vm.abcde-1", "subdomain", True),
        ("web_1", "subdomain", False),
        ("Web", "subdomain", False),
        ("-web", "subdomain", False),
        ("a" * 253, "subdomain", True),
        ("a" * 254, "subdomain", False),
        ("a.b", "label", False),
        ("a" * 63, "label", True),
        ("a" * 64, "label", False),
        ("system:Anything_Goes", "path", True),
        ("a/b", "path", False),
        ("..", "path", False),
    ],
)
def test_names(name: str, rule: NameRule, good: bool) -> None:
    assert (not list(check_name(name, rule))) is good


@pytest.mark.parametrize(
    ("metadata", "mistakes"),
    [
        ({"labels": {"a.b/c": "d", "e": ""}, "annotations": {"x/y": "any text at all"}}, []),
        ({"labels": {"a b": "c"}}, ['metadata.labels: Invalid value: "a b": not a qualified name']),
        ({"labels": {"a": "b c"}}, ['metadata.labels: Invalid value: "b c": not a valid label value']),
        ({"annotations": {"a": 1}}, ['metadata.annotations: Invalid value: "a": not a qualified name with a string']),
        ({"finalizers": ["exclave.dev/member"]}, []),
        ({"finalizers": ["bare"]}, ['metadata.finalizers: Invalid value: "bare": not a fully qualified name']),
        ({"ownerReferences": [OWNER, OWNER]}, []),
        (
            {"ownerReferences": [{**OWNER, "uid": ""}]},
            ["metadata.ownerReferences[0].uid: Invalid value: must not be empty"],
        ),
        (
            {"ownerReferences": [{**OWNER, "controller": True}] * 2},
            ["metadata.ownerReferences: Invalid value: Only one reference can have Controller set to true"],
        ),
    ],
)
def test_mistakes_of_metadata(metadata: dict[str, Any], mistakes: list[str]) -> None:
    assert [str(cause) for cause in check_metadata({"name": "a", **metadata}, "subdomain")] == mistakes


def test_new_finalizers_are_refused_only_while_the_object_is_being_deleted() -> None:
    added = {"finalizers": ["a/b", "c/d"]}
    assert not list(check_metadata_change({"finalizers": ["a/b"]}, added))
    deleted = {"finalizers": ["a/b"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert [str(cause) for cause in check_metadata_change(deleted, added)] == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new "
        'finalizers []string{"c/d"}'
    ]


def test_a_caller_sets_labels_and_no_fields_of_the_server() -> None:
    old = {"name": "a", "namespace": "g", "uid": "u", "generation": 2, "resourceVersion": "7", "labels": {"x": "y"}}
    new = {
        "name": "a",
        "uid": "w",
        "generation": 9,
        "deletionTimestamp": "t",
        "managedFields": [],
        "labels": {"z": "1"},
    }
    assert updated_metadata(old, new) == {**old, "labels": {"z": "1"}}
    assert fresh_metadata({**new, "annotations": {}}) == {"name": "a", "labels": {"z": "1"}}
