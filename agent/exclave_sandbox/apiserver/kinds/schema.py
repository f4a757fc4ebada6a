"""Checks an object against a schema: the part of OpenAPI v3 that our custom resources use. Pure.

Rules: a field that `properties` does not name is a mistake, as with fieldValidation=Strict; kube-apiserver by default
drops it without an error. `additionalProperties` allows any key; without either, anything is allowed. null counts as
absent, as in a merge patch.
Not jsonschema: its messages, order and limits are not kube-apiserver's, which tests compare; it takes null as a value,
and neither fills in defaults nor lists unknown fields. Translating its errors would be as long as this module.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from exclave.kit.formats.kubernetes import Schema
from exclave_sandbox.apiserver.messages import Cause

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def check_schema(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    """Every mistake in `value`, at `path` ("spec", or "" for a whole object)."""
    kind = schema["type"]
    if not _TYPES[kind](value):
        yield Cause(path, f"Invalid value: {json.dumps(value)}: must be of type {kind}", "FieldValueTypeInvalid")
    elif kind == "object":
        yield from _check_object(value, schema, path)
    elif kind == "array":
        yield from _check_array(value, schema, path)
    else:
        yield from _check_scalar(value, schema, path)


def unknown_fields(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """The paths of fields that the schema does not name."""
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from unknown_fields(item, schema["items"], f"{path}[{index}]")
    properties, free = schema.get("properties"), schema.get("additionalProperties")
    if isinstance(value, dict) and free is not None:
        for name, inner in value.items():
            yield from unknown_fields(inner, free, _below(path, name))
    if not isinstance(value, dict) or properties is None:
        return
    for name, inner in value.items():
        place = _below(path, name)
        if name in properties:
            yield from unknown_fields(inner, properties[name], place)
        else:
            yield place


def with_defaults(value: Any, schema: Schema) -> Any:
    """A copy of the value, with the schema's defaults for absent fields."""
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    properties = schema["properties"]
    absent = {name: one["default"] for name, one in properties.items() if "default" in one and value.get(name) is None}
    whole = {**value, **absent}
    return {name: with_defaults(one, properties[name]) if name in properties else one for name, one in whole.items()}


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Cause]:
    for name in schema.get("required", ()):
        if value.get(name) is None:
            yield Cause(_below(path, name), "Required value", "FieldValueRequired")
    most = schema.get("maxProperties")
    if most is not None and len(value) > most:
        yield Cause(path, f"Too many: {len(value)}: must have at most {most} items", "FieldValueTooMany")
    properties, free = schema.get("properties", {}), schema.get("additionalProperties")
    for name, inner in value.items():
        expected = properties.get(name, free)
        if expected is not None and inner is not None:
            yield from check_schema(inner, expected, _below(path, name))


def _check_array(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    most, least = schema.get("maxItems"), schema.get("minItems")
    if most is not None and len(value) > most:
        yield Cause(path, f"Too many: {len(value)}: must have at most {most} items", "FieldValueTooMany")
    if least is not None and len(value) < least:
        yield Cause(path, f"Invalid value: {len(value)}: should have at least {least} items")
    for index, item in enumerate(value):
        if "items" in schema:
            yield from check_schema(item, schema["items"], f"{path}[{index}]")


def _check_scalar(value: str | int | bool, schema: Schema, path: str) -> Iterator[Cause]:
    shown = json.dumps(value)
    if "enum" in schema and value not in schema["enum"]:
        wanted = ", ".join(json.dumps(one) for one in schema["enum"])
        yield Cause(path, f"Unsupported value: {shown}: supported values: {wanted}", "FieldValueNotSupported")
    if isinstance(value, str):
        yield from _check_string(value, schema, path)
    elif not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield Cause(path, f"Invalid value: {shown}: should be greater than or equal to {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            yield Cause(path, f"Invalid value: {shown}: should be less than or equal to {schema['maximum']}")


def _check_string(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        message = f"Too long: may not be more than {schema['maxLength']} bytes"
        yield Cause(path, message, "FieldValueTooLong")
    if len(value) < schema.get("minLength", 0):
        yield Cause(path, f'Invalid value: "{value}": should be at least {schema["minLength"]} chars long')
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield Cause(path, f"Invalid value: {json.dumps(value)}: should match '{schema['pattern']}'")
