"""Words for schemas as Kubernetes' custom resources write them: OpenAPI v3, structural. Pure.

Rules: a schema is a plain mapping. An object names all of its properties, or is a map whose values all have one schema;
a list always says what its items are, since the API server refuses a definition that does not.
"""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}
ANY_OBJECT: Schema = {"type": "object"}
"""Anything: for what is checked elsewhere. In a custom resource its fields would be dropped; there, use `map_of`."""

NOT_EMPTY: Schema = {"type": "string", "minLength": 1}


def object_of(required: tuple[str, ...] = (), **properties: Any) -> Schema:
    """An object with these properties."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", **needed, "properties": properties}


def map_of(values: Schema) -> Schema:
    """An object whose keys are free and whose values have this schema."""
    return {"type": "object", "additionalProperties": values}


def keyed(schema: Schema, longest: int) -> Schema:
    """The same map, with keys of at most so many characters: a schema has words for its values alone."""
    rule = {"rule": f"self.all(key, key.size() <= {longest})", "message": f"a key has at most {longest} characters"}
    return {**schema, "x-kubernetes-validations": [rule]}


def list_of(items: Schema, **limits: int) -> Schema:
    """A list whose items have this schema."""
    return {"type": "array", "items": items, **limits}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


def immutable(schema: Schema) -> Schema:
    """The same, once written never changed."""
    return {**schema, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "field is immutable"}]}
