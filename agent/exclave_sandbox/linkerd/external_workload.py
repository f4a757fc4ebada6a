"""The YAML file beside this module: the definition of Linkerd's ExternalWorkload."""

from importlib.resources import files
from typing import Any

import yaml


def external_workload_definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    text = files(__package__).joinpath("external_workload.yaml").read_text(encoding="utf-8")
    definition: dict[str, Any] = yaml.safe_load(text)
    return definition


def external_workload_schema() -> dict[str, Any]:
    """The schema of spec and status in v1beta1, which exclave uses."""
    whole = external_workload_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return {**whole, "properties": {part: whole["properties"][part] for part in ("spec", "status")}}
