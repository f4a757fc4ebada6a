"""Short forms for schemas (OpenAPI v3, structural). Pure. An object names its properties; a list has items."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}
ANY_OBJECT: Schema = {"type": "object"}  # anything: for what is checked elsewhere


def object_of(required: tuple[str, ...] = (), **properties: Any) -> Schema:
    """An object with these properties."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", **needed, "properties": properties}


def list_of(items: Schema, **limits: int) -> Schema:
    """A list whose items have this schema."""
    return {"type": "array", "items": items, **limits}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}
