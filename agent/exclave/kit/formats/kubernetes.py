"""Kubernetes' rules for labels, and words for schemas of custom resources (OpenAPI v3, structural). Pure.

Source of the rules for labels: k8s.io/apimachinery/pkg/util/validation/validation.go.
A schema is a plain mapping. An object names its properties or is a map; a list has items.
"""

import re
from collections.abc import Mapping
from typing import Any

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
MOST_LABEL = 63  # characters of a DNS label, and of a label's value

_DNS_LABEL = re.compile(DNS_LABEL)
_PART = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_PREFIX = re.compile("(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_label_value(text: str) -> bool:
    """Whether it may be a label's value: empty, or at most 63 characters from a letter or digit to another."""
    return not text or _PART.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether it may be a label's key: a name of the same form, perhaps with a DNS name and a slash before it."""
    prefix, slash, name = text.rpartition("/")
    return _PART.fullmatch(name) is not None and (not slash or _PREFIX.fullmatch(prefix) is not None)


def is_dns_label(text: str) -> bool:
    """Whether it is one DNS label: at most 63 small letters, digits and dashes, no dash at either end."""
    return len(text) <= MOST_LABEL and _DNS_LABEL.fullmatch(text) is not None


Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}
ANY_OBJECT: Schema = {"type": "object"}
"""For what is checked elsewhere. A custom resource would lose its fields; there, use `map_of`."""

NOT_EMPTY: Schema = {"type": "string", "minLength": 1}


def object_of(required: tuple[str, ...] = (), **properties: Any) -> Schema:
    """An object with these properties."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", **needed, "properties": properties}


def map_of(values: Schema) -> Schema:
    """An object whose keys are free and whose values have this schema."""
    return {"type": "object", "additionalProperties": values}


def keyed(schema: Schema, longest: int) -> Schema:
    """The same map, with keys of at most `longest` characters, which OpenAPI itself cannot express."""
    rule = {"rule": f"self.all(key, key.size() <= {longest})", "message": f"a key has at most {longest} characters"}
    return {**schema, "x-kubernetes-validations": [rule]}


def list_of(items: Schema, **limits: int) -> Schema:
    """A list whose items have this schema."""
    return {"type": "array", "items": items, **limits}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


def immutable(schema: Schema) -> Schema:
    """The same, and it cannot change once it is written."""
    return {**schema, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "field is immutable"}]}
