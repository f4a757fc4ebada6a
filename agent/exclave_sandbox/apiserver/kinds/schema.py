"""Checks an object against a schema, and its metadata. Pure. A field that `properties` does not name is a mistake.

Not jsonschema: its messages, order and limits are not those of kube-apiserver, which tests compare, and it fills in no
defaults. Metadata: k8s.io/apimachinery pkg/api/validation/objectmeta.go and pkg/util/validation/validation.go.
The file shapes.yaml beside this module has the types of Kubernetes' own fields.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from exclave.kit.formats.kubernetes import DNS_LABEL, is_label_key, is_label_value
from exclave.kit.formats.yaml_template import fill_template
from exclave_sandbox.apiserver.messages import Cause, Object

Schema = Mapping[str, Any]  # OpenAPI v3, structural: an object has properties, a list has items
SHAPES: Mapping[str, Schema] = fill_template(__package__, "shapes.yaml")[0]

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


NameRule = Literal["subdomain", "label", "path"]

_SUBDOMAIN = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{DNS_LABEL}')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_RULES = {"label": (DNS_LABEL, _LABEL_TEXT, 63), "subdomain": (_SUBDOMAIN, _SUBDOMAIN_TEXT, 253)}
_OWNER_FIELDS = ("apiVersion", "kind", "name", "uid")

SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
"""Fields that a caller may send, and that the server overrides."""
DROPPED = ("selfLink", "managedFields")  # fields that are not stored


def check_name(name: str, rule: NameRule) -> Iterator[Cause]:
    """Mistakes in an object's name."""
    if rule == "path":
        if name in (".", "..") or "/" in name or "%" in name:
            yield Cause("metadata.name", f"Invalid value: \"{name}\": may not be '.' or '..', or contain '/' or '%'")
        return
    pattern, text, most = _RULES[rule]
    if len(name) > most:
        yield Cause("metadata.name", f'Invalid value: "{name}": must be no more than {most} characters')
    if not re.fullmatch(pattern, name):
        yield Cause("metadata.name", f'Invalid value: "{name}": {text}')


def check_metadata(metadata: Object, rule: NameRule) -> Iterator[Cause]:
    """Mistakes in one object's metadata."""
    yield from check_name(metadata["name"], rule)
    for key, value in (metadata.get("labels") or {}).items():
        if not is_label_key(key):
            yield Cause("metadata.labels", f'Invalid value: "{key}": not a qualified name')
        if not isinstance(value, str) or not is_label_value(value):
            yield Cause("metadata.labels", f'Invalid value: "{value}": not a valid label value')
    for key, value in (metadata.get("annotations") or {}).items():
        if not is_label_key(key.lower()) or not isinstance(value, str):
            yield Cause("metadata.annotations", f'Invalid value: "{key}": not a qualified name with a string')
    for finalizer in metadata.get("finalizers") or ():
        if "/" not in finalizer or not is_label_key(finalizer):
            yield Cause("metadata.finalizers", f'Invalid value: "{finalizer}": not a fully qualified name')
    yield from _check_owners(metadata.get("ownerReferences") or [])


def _check_owners(owners: list[Object]) -> Iterator[Cause]:
    for index, owner in enumerate(owners):
        for name in _OWNER_FIELDS:
            if not owner.get(name):
                yield Cause(f"metadata.ownerReferences[{index}].{name}", "Invalid value: must not be empty")
    if sum(bool(owner.get("controller")) for owner in owners) > 1:
        message = "Invalid value: Only one reference can have Controller set to true"
        yield Cause("metadata.ownerReferences", message)


def check_metadata_change(old: Object, new: Object) -> Iterator[Cause]:
    """Mistakes in a change: an object that is being deleted accepts no new finalizers."""
    if not old.get("deletionTimestamp"):
        return
    added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
    if added:
        listed = ", ".join(f'"{one}"' for one in added)
        message = (
            "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
            f"[]string{{{listed}}}"
        )
        yield Cause("metadata.finalizers", message, "FieldValueForbidden")


def updated_metadata(old: Object, new: Object) -> Object:
    """A caller's metadata, with the server's fields as they were."""
    found = {key: value for key, value in new.items() if key not in (*SERVER_OWNED, *DROPPED) and value is not None}
    found |= {key: old[key] for key in (*SERVER_OWNED, "resourceVersion", "name", "namespace") if key in old}
    return _without_empty(found)


def fresh_metadata(new: Object) -> Object:
    """A caller's metadata without the server's fields."""
    unwanted = (*SERVER_OWNED, *DROPPED, "resourceVersion")
    return _without_empty({key: value for key, value in new.items() if key not in unwanted and value is not None})


def _without_empty(metadata: Object) -> Object:
    """Empty lists and mappings are not stored, as the real server's encoding omits them."""
    return {key: value for key, value in metadata.items() if value not in ({}, [], "")}
