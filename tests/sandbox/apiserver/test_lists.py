"""Selectors and pages of lists."""

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_sandbox.apiserver.lists import page_of, parse_selector, read_cursor
from exclave_sandbox.apiserver.messages import Refusal

OBJECT = {"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}}


@pytest.mark.parametrize(
    ("labels", "accepted"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web , tier=front", True),
        ("app=db", False),
        ("app!=db", True),
        ("zone!=x", True),
        ("app!=web", False),
        ("app in (web, db)", True),
        ("app in (db),tier", False),
        ("app notin (db,x),tier=front", True),
        ("zone notin (a)", True),
        ("tier", True),
        ("zone", False),
        ("!zone", True),
        ("!tier", False),
    ],
)
def test_labels(labels: str, accepted: bool) -> None:
    assert parse_selector(labels, "").accepts(OBJECT) is accepted


def test_an_object_without_labels_matches_no_value() -> None:
    assert not parse_selector("app=web", "").accepts({"metadata": {"name": "a"}})


def test_fields_name_the_object() -> None:
    selector = parse_selector("", "metadata.name=a,metadata.namespace=g")
    assert (selector.name, selector.namespace) == ("a", "g")


@pytest.mark.parametrize(
    ("labels", "fields", "message"),
    [
        ("a,,b", "", 'unable to parse requirement: ""'),
        ("a b c", "", 'unable to parse requirement: "a b c"'),
        ("", "spec.nodeName=x", "field label not supported: spec.nodeName"),
        ("", "metadata.name!=x", 'invalid field selector "metadata.name!=x": only <field>=<value> is understood'),
    ],
)
def test_a_malformed_selector_is_refused(labels: str, fields: str, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_selector(labels, fields)
    assert (refused.value.code, refused.value.message) == (400, message)


@pytest.mark.parametrize("piece", [",", "(", "(,", ",)", "a in (,"])
def test_a_long_selector_is_refused_in_no_time(piece: str) -> None:
    began = time.thread_time()
    with pytest.raises(Refusal):
        parse_selector(piece * 20_000, "")
    assert time.thread_time() - began < 1.0


def listed(*names: str) -> list[dict[str, object]]:
    return [{"metadata": {"namespace": "g", "name": name}} for name in names]


@given(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=20), st.integers(1, 7))
def test_all_pages_together_are_the_list(names: list[str], limit: int) -> None:
    objects, returned, after = listed(*sorted(names)), [], ""
    while True:
        page = page_of(objects, limit, after, 7, counted=True)
        returned += page["items"]
        assert len(page["items"]) <= limit
        assert page["metadata"].get("remainingItemCount", 0) == len(objects) - len(returned)
        if "continue" not in page["metadata"]:
            break
        revision, after = read_cursor(page["metadata"]["continue"])
        assert revision == 7
    assert returned == objects


def test_remaining_items_are_not_counted_with_a_label_selector() -> None:
    assert set(page_of(listed("a", "b"), 1, "", 7, counted=False)["metadata"]) == {"resourceVersion", "continue"}


def test_a_token_has_the_format_of_kubernetes() -> None:
    token = base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":226,"start":"g/c-1\\u0000"}').decode()
    assert read_cursor(token) == read_cursor(token.rstrip("=")) == (226, "g/c-1")


@pytest.mark.parametrize(
    "token",
    [
        "rubbish",
        "",
        *(json.dumps(one) for one in ({}, [], {"v": "meta.k8s.io/v1"}, {"v": "v0", "rv": 1, "start": "a"})),
    ],
)
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(Refusal, match="continue key is not valid") as refused:
        read_cursor(base64.urlsafe_b64encode(token.encode()).decode() if token[:1] in "{[" else token)
    assert refused.value.code == 400
