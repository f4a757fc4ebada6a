"""The YAML files of this package: Linkerd's definition, the shapes of kinds, and the demo's objects."""

import json
from importlib.resources import files
from string import Template
from typing import Any

import yaml


def load_yaml(package: str, name: str, **values: object) -> list[Any]:
    """The documents of a package's file. With values, each `$NAME` in it becomes one, as JSON, which is YAML."""
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    if values:
        text = Template(text).substitute({key: json.dumps(value) for key, value in values.items()})
    return list(yaml.safe_load_all(text))
