"""The Helm chart and the kustomize base as they are in the checkout, without helm and kustomize.

`tests/peers/test_chart.py` compares them with the install command through both programs.
"""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from exclave.admin.objects import REPOSITORY, Installation, first_objects, later_objects
from exclave.api.requests import DEPLOYMENTS
from peers.chart_programs import BASE, CHART, HELM, KUSTOMIZE

TOP = Path(__file__).resolve().parents[2]
PACKAGING = TOP / "packaging"
TEMPLATES = sorted((CHART / "templates").iterdir())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """packaging/chart.py as a module."""
    monkeypatch.syspath_prepend(str(PACKAGING))
    return importlib.import_module("chart")


def edited(monkeypatch: pytest.MonkeyPatch, generator: ModuleType, name: str, old: str, new: str) -> None:
    """Have the generator read a source in which a text is replaced."""
    read = generator._read
    assert old in read(name)
    monkeypatch.setattr(generator, "_read", lambda one: read(one).replace(old, new) if one == name else read(one))


def test_chart_and_base_are_made_from_the_sources_of_this_checkout(generator: ModuleType) -> None:
    changed = list(generator.differences(PACKAGING))
    assert changed == [], f"make them again, and commit them: {generator.COMMAND}"


def test_every_file_is_made_or_known_to_be_written_by_hand(generator: ModuleType) -> None:
    found = {str(path.relative_to(PACKAGING)) for folder in (CHART, BASE) for path in folder.rglob("*.*")}
    assert found - set(generator.made_files()) == {
        "helm/exclave/values.yaml",
        "helm/exclave/values.schema.json",
        "helm/exclave/templates/NOTES.txt",
        *(f"helm/exclave/templates/{name}.yaml" for name in OPTIONAL),
        "kustomize/base/kustomization.yaml",
        *(f"kustomize/components/{name}/kustomization.yaml" for name in ("cert-manager", *OPTIONAL)),
        *(f"kustomize/components/{name}/{name}.yaml" for name in OPTIONAL),
    }


OPTIONAL = ("pod-disruption-budget", "network-policy", "service-monitor")


def test_the_base_has_what_the_command_applies_in_its_order() -> None:
    files = yaml.safe_load((BASE / "base/kustomization.yaml").read_text())["resources"]
    found = [body for name in files for body in yaml.safe_load_all((BASE / "base" / name).read_text())]
    assert found == [one.body for one in (*first_objects(), *later_objects(Installation()))]


def test_the_default_values_are_those_of_the_command() -> None:
    (deployment,) = (one.body for one in later_objects(Installation()) if one.resource is DEPLOYMENTS)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert VALUES["resources"] == container["resources"]
    assert VALUES["replicas"] == Installation.replicas
    assert VALUES["image"]["name"] == REPOSITORY
    assert VALUES["linkerdNamespace"] == Installation.linkerd


# Values.


def paths(tree: dict[str, Any], before: str = "") -> Iterator[str]:
    """The dotted paths of all values; an object without keys is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and key != "resources":
            yield from paths(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def test_every_value_is_used_and_every_use_has_a_default() -> None:
    text = "\n".join(path.read_text() for path in TEMPLATES)
    for whole in ("networkPolicy", "serviceMonitor"):  # these files open their value by `with`
        (body,) = (path.read_text() for path in TEMPLATES if f"with .Values.{whole} " in path.read_text())
        text += re.sub(r"(?<=[ (])\.([a-z])", rf".Values.{whole}.\1", body)
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", text)) - {"networkPolicy", "serviceMonitor"}
    assert used == set(paths(VALUES))


def test_the_schema_has_every_value_and_refuses_all_others() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any]) -> None:
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) - {"global"} == set(values)
        for key, value in values.items():
            if isinstance(value, dict) and value and key != "resources":
                compare(schema["properties"][key], value)

    compare(SCHEMA, VALUES)


def test_no_value_is_a_key() -> None:
    assert [path for path in paths(VALUES) if re.search("pem|crt|key$|secret$|token", path, re.IGNORECASE)] == []


# A source that changed.


def test_a_placeholder_without_a_value_is_refused(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(monkeypatch, generator, "rights", "name: <NAMESPACE>", "name: <NEW>")
    with pytest.raises(generator.CannotMake, match="the placeholder <NEW> has no value"):
        generator.made_files()


def test_a_deployment_without_an_expected_line_is_refused(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(monkeypatch, generator, "controller", "serviceAccountName: exclave-controller", "serviceAccountName: other")
    with pytest.raises(generator.CannotMake, match="this was expected once, found 0 times"):
        generator.made_files()


def test_braces_that_helm_would_read_are_refused(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(monkeypatch, generator, "rights", "kind: ServiceAccount\n", "kind: ServiceAccount # {{ x }}\n")
    with pytest.raises(generator.CannotMake, match=r"rights\.yaml: '{{' would begin"):
        generator.made_files()


def test_a_definition_that_helm_would_delete_is_refused(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(monkeypatch, generator, "crds", "metadata: {name: members.exclave.dev}", "metadata: {name: m, labels: {}}")
    with pytest.raises(generator.CannotMake, match="was expected in every object, found 1 of 2"):
        generator.made_files()


def test_a_changed_right_reaches_chart_and_base(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(monkeypatch, generator, "rights", "resources: [events], verbs: [create]", "resources: [events], verbs: []")
    assert list(generator.differences(PACKAGING)) == [
        "helm/exclave/templates/rights.yaml",
        "kustomize/base/rights.yaml",
    ]


@pytest.mark.parametrize(("program", "version"), [("helm", HELM), ("kustomize", KUSTOMIZE)])
def test_the_programs_of_the_tests_have_the_versions_of_their_modules(program: str, version: str) -> None:
    text = (TOP / f"tests/peers/modules/{program}/go.mod").read_text()
    (required,) = re.findall(r"^require \S+ (\S+)$", text, re.MULTILINE)
    assert required == version
