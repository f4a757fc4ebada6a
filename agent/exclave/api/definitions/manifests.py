"""The definitions of exclave's two kinds, and the admission policies: the YAML files beside this module. Pure."""

from typing import Any

from exclave.api.group import (
    INBOUND_POLICIES,
    LIMITS,
    MOST_CORES,
    MOST_FAILURES,
    MOST_GROUP_NAME,
    MOST_LISTED,
    PROXY_PORT_NAME,
    PROXY_PORTS,
    duration_limits,
)
from exclave.api.names import GROUP_PATTERN, TAIL_PATTERN
from exclave.api.requests import Object, Resource
from exclave.kit.formats.times import format_duration
from exclave.kit.formats.yaml_template import fill_template

ADMISSION_VALUES = {"NAME": GROUP_PATTERN, "TAIL": TAIL_PATTERN}
"""The values of the placeholders in `admission.yaml` that are the same in every cluster."""


def custom_resource_definitions() -> list[Object]:
    """Both definitions. The limits of a group's spec are those of the code."""
    return fill_template(__package__, "crds.yaml", **definition_values())


def definition_values() -> dict[str, Any]:
    """The values of the placeholders in `crds.yaml`."""
    return {
        "INBOUND_POLICIES": ["", *INBOUND_POLICIES],
        "MOST_CORES": MOST_CORES,
        "MOST_FAILURES": MOST_FAILURES,
        "MOST_GROUP_NAME": MOST_GROUP_NAME,
        "MOST_LISTED": MOST_LISTED,
        "PROXY_PORTS": ", ".join(map(str, PROXY_PORTS)),
        "PROXY_PORT_NAME": PROXY_PORT_NAME,
        **{f"{key.upper()}_LIMITS": [_limit_rule(key)] for key in LIMITS},
    }


def _limit_rule(key: str) -> Object:
    """The CEL rule for a duration of a group's spec. CEL reads durations as Go does, without days."""
    least, most = map(format_duration, LIMITS[key])
    return {
        "rule": f"duration(self) >= duration('{least}') && duration(self) <= duration('{most}')",
        "message": duration_limits(key),
    }


def admission_objects(controller_namespace: str) -> list[Object]:
    """Both policies with their bindings, in the order in which they are installed, before all Roles."""
    return fill_template(__package__, "admission.yaml", **ADMISSION_VALUES, CONTROLLER_NAMESPACE=controller_namespace)


def schema_of(resource: Resource) -> dict[str, Any]:
    """The OpenAPI schema of a kind's spec and status, as the sandbox's API server needs it."""
    (found,) = (one for one in custom_resource_definitions() if one["spec"]["names"]["kind"] == resource.kind)
    properties = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = {name: properties[name] for name in ("spec", "status")}
    return {"type": "object", "required": ["spec"], "properties": parts}
