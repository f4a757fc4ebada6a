"""Label and field selectors."""

import time

import pytest

from exclave_sandbox.apiserver.refusal import Refusal
from exclave_sandbox.apiserver.selectors import parse_selector

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
def test_what_is_not_understood_is_refused(labels: str, fields: str, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_selector(labels, fields)
    assert (refused.value.code, refused.value.message) == (400, message)


@pytest.mark.parametrize("piece", [",", "(", "(,", ",)", "a in (,"])
def test_a_long_selector_is_refused_in_no_time(piece: str) -> None:
    began = time.thread_time()
    with pytest.raises(Refusal):
        parse_selector(piece * 20_000, "")
    assert time.thread_time() - began < 1.0
