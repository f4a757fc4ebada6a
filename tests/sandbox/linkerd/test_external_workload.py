"""Linkerd's definition, by its shape; `tests/peers` holds both servers to it."""

from exclave.api.requests import EXTERNAL_WORKLOADS
from exclave_sandbox.linkerd.external_workload import external_workload_definition, external_workload_schema


def test_the_version_that_is_asked_for_is_the_stored_one_and_the_other_has_no_status() -> None:
    spec = external_workload_definition()["spec"]
    versions = {one["name"]: one for one in spec["versions"]}
    asked = versions.pop(EXTERNAL_WORKLOADS.version)
    assert (spec["group"], spec["names"]["plural"]) == (EXTERNAL_WORKLOADS.group, EXTERNAL_WORKLOADS.plural)
    assert (asked["storage"], asked["subresources"]) == (True, {"status": {}})
    assert set(versions) == {"v1alpha1"}
    assert "subresources" not in versions["v1alpha1"]
    assert not versions["v1alpha1"]["storage"]


def test_each_version_has_its_own_name_of_the_tls_field() -> None:
    found = {
        one["name"]: one["schema"]["openAPIV3Schema"]["properties"]["spec"]["required"]
        for one in external_workload_definition()["spec"]["versions"]
    }
    assert found == {"v1beta1": ["meshTLS"], "v1alpha1": ["meshTls"]}


def test_a_definition_lets_metadata_be_checked_by_kubernetes_itself() -> None:
    schema = external_workload_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert schema["properties"]["metadata"] == {"type": "object"}
    assert "metadata" not in external_workload_schema()["properties"]
