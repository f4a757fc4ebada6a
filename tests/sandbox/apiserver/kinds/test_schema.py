"""The schema walker: every mistake, with its place."""

from typing import Any

import pytest

from exclave.kit.formats.kubernetes import INTEGER, list_of, object_of
from exclave_sandbox.apiserver.kinds.schema import check_schema, unknown_fields, with_defaults

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
    port = object_of(("port",), port=INTEGER, protocol={"type": "string", "default": "TCP"})
    schema = object_of(ports=list_of(port))
    given = {"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}, {"port": 3, "protocol": None}], "other": 1}
    found = with_defaults(given, schema)
    assert [one["protocol"] for one in found["ports"]] == ["TCP", "UDP", "TCP"]
    assert found["other"] == 1
    assert given["ports"][0] == {"port": 1}
