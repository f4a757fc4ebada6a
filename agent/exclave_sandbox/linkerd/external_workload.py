"""The definition of Linkerd's ExternalWorkload, from the YAML file beside this module. Pure."""

from typing import Any

from exclave.kit.formats.yaml_template import fill_template


def external_workload_definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    (definition,) = fill_template(__package__, "external_workload.yaml")
    return dict(definition)


def external_workload_schema() -> dict[str, Any]:
    """The schema of spec and status in v1beta1, which exclave uses."""
    whole = external_workload_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return {**whole, "properties": {part: whole["properties"][part] for part in ("spec", "status")}}
