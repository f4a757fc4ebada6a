"""YAML files beside a package's modules, with placeholders such as `<NAMESPACE>`.

They are filled in after the file was parsed, so no value can change the structure.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with libyaml
_PLACEHOLDER = re.compile("<([A-Z_]+)>")


def fill_template(package: str, name: str, **values: Any) -> list[Any]:
    """The documents of a file. A text that is one placeholder becomes its value, of any type. Raises KeyError."""
    return [_fill(document, values) for document in _parse(package, name)]


@cache
def _parse(package: str, name: str) -> tuple[Any, ...]:
    return tuple(yaml.load_all(files(package).joinpath(name).read_text(encoding="utf-8"), _LOADER))


def _fill(tree: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _fill(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fill(value, values) for value in tree]
    if not isinstance(tree, str):
        return tree
    whole = _PLACEHOLDER.fullmatch(tree)
    return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda found: str(values[found[1]]), tree)
