"""The table of kinds, merge patches, and what a body must be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import KINDS, changed_object, check_body, merge_patch, new_object
from exclave_sandbox.apiserver.messages import Refusal
from support.store import member

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the examples of RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(JSON, JSON)
def test_the_same_patch_again_changes_nothing(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


@given(JSON, JSON)
def test_a_patch_changes_neither_of_its_arguments(target: Any, patch: Any) -> None:
    before = repr((target, patch))
    merge_patch(target, patch)
    assert repr((target, patch)) == before


def test_kinds_are_named_as_error_texts_name_them() -> None:
    assert (kinds.MEMBERS.key, kinds.MEMBERS.kind_key) == ("members.exclave.dev", "Member.exclave.dev")
    assert (kinds.SECRETS.key, kinds.SECRETS.kind_key) == ("secrets", "Secret")
    assert len({kind.key for kind in KINDS}) == len(KINDS)


def test_subresources() -> None:
    assert {kind.key: kind.subresources for kind in KINDS if kind.subresources} == {
        "members.exclave.dev": ("status",),
        "workloadgroups.exclave.dev": ("status",),
        "externalworkloads.workload.linkerd.io": ("status",),
        "pods": ("status",),
        "services": ("status",),
        "serviceaccounts": ("token",),
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body is no Member: a JSON object with metadata was expected"),
        ({"metadata": 1}, "the body is no Member: a JSON object with metadata was expected"),
        ({"metadata": {}}, "Object 'Kind' is missing in the body"),
        (
            {**member(), "kind": "Lease"},
            "the kind in the body (Lease) does not match that of the URL (Member)",
        ),
        (
            {**member(), "apiVersion": "v1"},
            "the apiVersion in the body (v1) does not match that of the URL (exclave.dev/v1alpha1)",
        ),
    ],
)
def test_a_body_of_something_else_is_refused(body: Any, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_body(kinds.MEMBERS, body)
    assert (refused.value.code, refused.value.message) == (400, message)


def test_unknown_fields_are_refused_in_custom_kinds_and_stored_in_kubernetes_own() -> None:
    with pytest.raises(Refusal, match='strict decoding error: unknown field "extra"'):
        new_object(kinds.MEMBERS, {**member(), "extra": 1})
    assert new_object(kinds.PODS, {"metadata": {"name": "p"}, "spec": {"anything": 1}})["spec"] == {"anything": 1}


def test_a_status_write_can_remove_the_status() -> None:
    old = {**member(), "status": {"settings": "x"}}
    old["metadata"] |= {"generation": 1, "resourceVersion": "3", "uid": "u"}
    assert "status" not in changed_object(kinds.MEMBERS, old, {**old, "status": {}}, "status")
