"""YAML files with placeholders."""

import sys
from pathlib import Path
from typing import Any

import pytest

from exclave.kit.formats.yaml_template import fill_template

TEMPLATE = """\
# a comment
kind: <KIND>
name: "system:<NAME>/<NAME>"
labels: {app: <NAME>, lower: <name>}
list: [<NUMBER>, <TREE>, 7, true]
---
second: document
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "package_with_templates"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "t.yaml").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    return folder.name


def filled(package: str, **values: Any) -> Any:
    return fill_template(package, "t.yaml", **{"KIND": "K", "NAME": "web", "NUMBER": 3, "TREE": {"a": [1]}, **values})


def test_placeholders_are_filled_in_and_a_whole_one_has_its_values_type(package: str) -> None:
    assert filled(package) == [
        {
            "kind": "K",
            "name": "system:web/web",
            "labels": {"app": "web", "lower": "<name>"},
            "list": [3, {"a": [1]}, 7, True],
        },
        {"second": "document"},
    ]


def test_a_value_cannot_change_the_structure(package: str) -> None:
    value = 'x"}\n---\nkind: [Other] # <KIND>'
    first, second = filled(package, NAME=value)
    assert (first["labels"]["app"], second) == (value, {"second": "document"})


def test_a_placeholder_without_a_value_is_an_error(package: str) -> None:
    with pytest.raises(KeyError, match="KIND"):
        fill_template(package, "t.yaml")


def test_a_change_of_what_was_filled_in_does_not_reach_the_next(package: str) -> None:
    filled(package)[0]["labels"]["app"] = "changed"
    assert filled(package)[0]["labels"]["app"] == "web"
