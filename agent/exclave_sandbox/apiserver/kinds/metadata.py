"""The rules of `metadata`: names, labels, owners, and the fields that only the server writes. Pure.

Source: k8s.io/apimachinery pkg/api/validation/objectmeta.go and pkg/util/validation/validation.go.
"""

import re
from collections.abc import Iterator
from typing import Literal

from exclave.kit.formats.kubernetes import (
    ANY_OBJECT,
    BOOLEAN,
    DNS_LABEL,
    STRING,
    is_label_key,
    is_label_value,
    list_of,
    object_of,
)
from exclave_sandbox.apiserver.messages import Cause, Object

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

SHAPE = object_of(
    name=STRING,
    generateName=STRING,
    namespace=STRING,
    uid=STRING,
    resourceVersion=STRING,
    labels=ANY_OBJECT,
    annotations=ANY_OBJECT,
    finalizers=list_of(STRING),
    ownerReferences=list_of(object_of(apiVersion=STRING, kind=STRING, name=STRING, uid=STRING, controller=BOOLEAN)),
)
"""The types of its fields, which are checked first."""

SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
"""Fields that a caller may send, and that the server overrides."""
DROPPED = ("selfLink", "managedFields")
"""Fields that are not stored."""


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
