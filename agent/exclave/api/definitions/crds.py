"""The definitions of exclave's two kinds, as an admin installs them. Pure.

Each has one version and a status subresource, so that an account may have the right to write spec or status alone. What
a schema cannot express is a CEL rule with its message. Columns are what `kubectl get` prints.
"""

from typing import Any

from exclave.api.definitions.schemas import MEMBER, WORKLOAD_GROUP
from exclave.api.group import MOST_GROUP_NAME
from exclave.api.requests import CUSTOM_RESOURCE_DEFINITIONS, MEMBERS, WORKLOAD_GROUPS, Object, Resource
from exclave.kit.formats.kubernetes import STRING, Schema

Column = tuple[str, str, str]
"""Name, type and JSON path."""

_AGE: Column = ("Age", "date", ".metadata.creationTimestamp")

GROUP_NAME_RULE = {
    "rule": f"!self.metadata.name.contains('.') && self.metadata.name.size() <= {MOST_GROUP_NAME}",
    "message": f"a group's name is one DNS label of at most {MOST_GROUP_NAME} characters",
}


def custom_resource_definitions() -> list[Object]:
    """Both definitions."""
    return [
        _definition(
            WORKLOAD_GROUPS,
            WORKLOAD_GROUP,
            short="wg",
            columns=[
                ("Account", "string", ".spec.serviceAccount"),
                ("Networks", "string", ".spec.networks"),
                ("Accepted", "string", _condition("Accepted")),
                _AGE,
            ],
            rules=[GROUP_NAME_RULE],
        ),
        _definition(
            MEMBERS,
            MEMBER,
            short="mb",
            columns=[
                ("Address", "string", ".spec.addresses[0]"),
                ("Live", "string", _condition("Live")),
                ("Serving", "boolean", ".spec.serving"),
                ("Data-Path", "string", ".spec.dataPath"),
                ("Certificate-Until", "string", ".status.certificate.notAfter"),
                _AGE,
            ],
        ),
    ]


def _definition(
    resource: Resource,
    schema: Schema,
    *,
    short: str,
    columns: list[Column],
    rules: list[dict[str, str]] | None = None,
) -> Object:
    properties = {"apiVersion": STRING, "kind": STRING, "metadata": {"type": "object"}, **schema["properties"]}
    whole: dict[str, Any] = {**schema, "properties": properties}
    if rules:
        whole["x-kubernetes-validations"] = rules
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": whole},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in columns],
    }
    names = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "shortNames": [short],
        "categories": ["exclave"],
    }
    return {
        "apiVersion": CUSTOM_RESOURCE_DEFINITIONS.api_version,
        "kind": CUSTOM_RESOURCE_DEFINITIONS.kind,
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {"group": resource.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _condition(kind: str) -> str:
    return f".status.conditions[?(@.type=='{kind}')].status"
