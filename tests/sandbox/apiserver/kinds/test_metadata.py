"""Names, labels, owners, and what only the server writes."""

from typing import Any

import pytest

from exclave_sandbox.apiserver.kinds.metadata import (
    NameRule,
    check_metadata,
    check_metadata_change,
    check_name,
    fresh_metadata,
    updated_metadata,
)

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}


@pytest.mark.parametrize(
    ("name", "rule", "good"),
    [
        ("web.vm.abcde-1", "subdomain", True),
        ("web_1", "subdomain", False),
        ("Web", "subdomain", False),
        ("-web", "subdomain", False),
        ("a" * 253, "subdomain", True),
        ("a" * 254, "subdomain", False),
        ("a.b", "label", False),
        ("a" * 63, "label", True),
        ("a" * 64, "label", False),
        ("system:Anything_Goes", "path", True),
        ("a/b", "path", False),
        ("..", "path", False),
    ],
)
def test_names(name: str, rule: NameRule, good: bool) -> None:
    assert (not list(check_name(name, rule))) is good


@pytest.mark.parametrize(
    ("metadata", "mistakes"),
    [
        ({"labels": {"a.b/c": "d", "e": ""}, "annotations": {"x/y": "any text at all"}}, []),
        ({"labels": {"a b": "c"}}, ['metadata.labels: Invalid value: "a b": not a qualified name']),
        ({"labels": {"a": "b c"}}, ['metadata.labels: Invalid value: "b c": not a valid label value']),
        ({"annotations": {"a": 1}}, ['metadata.annotations: Invalid value: "a": not a qualified name with a string']),
        ({"finalizers": ["exclave.dev/member"]}, []),
        ({"finalizers": ["bare"]}, ['metadata.finalizers: Invalid value: "bare": not a fully qualified name']),
        ({"ownerReferences": [OWNER, OWNER]}, []),
        (
            {"ownerReferences": [{**OWNER, "uid": ""}]},
            ["metadata.ownerReferences[0].uid: Invalid value: must not be empty"],
        ),
        (
            {"ownerReferences": [{**OWNER, "controller": True}] * 2},
            ["metadata.ownerReferences: Invalid value: Only one reference can have Controller set to true"],
        ),
    ],
)
def test_mistakes(metadata: dict[str, Any], mistakes: list[str]) -> None:
    assert [str(cause) for cause in check_metadata({"name": "a", **metadata}, "subdomain")] == mistakes


def test_new_finalizers_are_refused_only_while_the_object_is_being_deleted() -> None:
    added = {"finalizers": ["a/b", "c/d"]}
    assert not list(check_metadata_change({"finalizers": ["a/b"]}, added))
    deleted = {"finalizers": ["a/b"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert [str(cause) for cause in check_metadata_change(deleted, added)] == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new "
        'finalizers []string{"c/d"}'
    ]


def test_a_caller_decides_labels_and_not_what_the_server_writes() -> None:
    old = {"name": "a", "namespace": "g", "uid": "u", "generation": 2, "resourceVersion": "7", "labels": {"x": "y"}}
    new = {
        "name": "a",
        "uid": "w",
        "generation": 9,
        "deletionTimestamp": "t",
        "managedFields": [],
        "labels": {"z": "1"},
    }
    assert updated_metadata(old, new) == {**old, "labels": {"z": "1"}}
    assert fresh_metadata({**new, "annotations": {}}) == {"name": "a", "labels": {"z": "1"}}
