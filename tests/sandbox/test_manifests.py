"""The YAML files of the sandbox."""

import pytest

from exclave_sandbox.manifests import load_yaml


def test_a_file_without_values_is_parsed_as_it_is() -> None:
    (definition,) = load_yaml("exclave_sandbox.linkerd", "external_workload.yaml")
    assert definition["kind"] == "CustomResourceDefinition"


def test_a_name_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="POD_NAME"):
        load_yaml("exclave_sandbox.stage", "application.yaml", NAMESPACE="shop")
