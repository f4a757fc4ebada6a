"""What a snapshot reads, and how often."""

from typing import Any

import pytest

from exclave.admin.check.snapshot import ClusterSnapshot
from exclave.api.names import ACCOUNTS_LABEL
from exclave.api.requests import NAMESPACES, WORKLOAD_GROUPS, Object, Resource
from exclave.errors import ApiRefusal


class CountingKubectl:
    """A kubectl with these lists, which counts the reads."""

    def __init__(self, lists: dict[Resource, list[Object]], refusal: int = 404) -> None:
        self.lists = lists
        self.refusal = refusal
        self.reads: list[Resource] = []

    def list(self, resource: Resource, _namespace: str | None = None) -> list[Object]:
        self.reads.append(resource)
        if resource not in self.lists:
            raise ApiRefusal(self.refusal, "", "refused", "")
        return self.lists[resource]

    def get(self, resource: Resource, *_: object) -> None:
        self.reads.append(resource)


def snapshot(kubectl: CountingKubectl, linkerd: str | None = None) -> ClusterSnapshot:
    found: Any = kubectl
    return ClusterSnapshot(found, "exclave", linkerd)


def test_each_kind_is_read_once() -> None:
    kubectl = CountingKubectl({NAMESPACES: [{"metadata": {"name": "shop-vms", "labels": {ACCOUNTS_LABEL: "shop"}}}]})
    found = snapshot(kubectl)
    assert found.accounts_namespaces == found.accounts_namespaces == ["shop-vms"]
    assert kubectl.reads == [NAMESPACES]


def test_definitions_are_missing_only_if_the_server_knows_no_such_kind() -> None:
    assert snapshot(CountingKubectl({WORKLOAD_GROUPS: []})).has_definitions
    assert not snapshot(CountingKubectl({})).has_definitions
    with pytest.raises(ApiRefusal):
        _ = snapshot(CountingKubectl({}, refusal=403)).has_definitions


def test_linkerds_namespace_is_the_given_one_or_the_default() -> None:
    assert snapshot(CountingKubectl({}), "mesh").linkerd == "mesh"
    assert snapshot(CountingKubectl({})).linkerd == "linkerd"
