"""What clients such as kubectl ask before they ask for anything."""

from typing import Any

import pytest

from exclave_sandbox.apiserver.kinds.discovery import discover
from exclave_sandbox.apiserver.messages import Refusal


def document(path: str) -> Any:
    found = discover(path, anonymous=False)
    assert found is not None
    assert found.status == 200
    return found.body


def test_groups_and_their_resources_are_listed() -> None:
    assert document("/api")["versions"] == ["v1"]
    assert {"exclave.dev", "workload.linkerd.io"} < {one["name"] for one in document("/apis")["groups"]}
    listed = {one["name"]: one for one in document("/apis/exclave.dev/v1alpha1")["resources"]}
    assert set(listed) == {"members", "members/status", "workloadgroups", "workloadgroups/status"}
    assert listed["members"]["namespaced"] is True
    names = {one["name"]: one for one in document("/api/v1")["resources"]}
    assert names["serviceaccounts/token"]["verbs"] == ["create"]
    assert names["namespaces"]["shortNames"] == ["ns"]


def test_health_and_version_are_open_to_all_and_the_rest_is_not() -> None:
    for path in ("/livez", "/readyz", "/healthz", "/version"):
        assert discover(path, anonymous=True) is not None
    with pytest.raises(Refusal) as refused:
        discover("/apis", anonymous=True)
    assert refused.value.message == 'forbidden: User "system:anonymous" cannot get path "/apis"'


def test_a_resource_is_not_discovery() -> None:
    assert discover("/api/v1/namespaces", anonymous=False) is None
