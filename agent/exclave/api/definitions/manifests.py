"""The YAML files beside this module: the definitions of exclave's two kinds, and the admission policies."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from exclave.api.requests import Object, Resource

_NAME = "[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?"
_TAIL = "[a-z0-9]{5}-[1-9][0-9]{0,2}"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with libyaml


def custom_resource_definitions() -> list[Object]:
    """Both definitions."""
    return _load("crds.yaml", "")


def admission_objects(controller_namespace: str) -> list[Object]:
    """Both policies with their bindings, in the order in which they are installed, before all Roles."""
    return _load("admission.yaml", controller_namespace)


def schema_of(resource: Resource) -> dict[str, Any]:
    """The OpenAPI schema of the spec and the status of one of the two kinds, as the sandbox's API server needs it."""
    (found,) = (one for one in custom_resource_definitions() if one["spec"]["names"]["kind"] == resource.kind)
    properties = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = {name: properties[name] for name in ("spec", "status")}
    return {"type": "object", "required": ["spec"], "properties": parts}


def _load(name: str, controller_namespace: str) -> list[Object]:
    text = _read(name).replace("%NAME%", _NAME).replace("%TAIL%", _TAIL)
    return list(yaml.load_all(text.replace("%CONTROLLER_NAMESPACE%", controller_namespace), _LOADER))


@cache
def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
