"""Malformed objects: all others are read, and each is named."""

import json
from typing import Any

import pytest

from exclave.api.malformed import MALFORMED, fault_text, object_title, read_each
from exclave.errors import ClusterError, Fault


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"in": found}
    return found


READERS: dict[str, Any] = {
    "a missing key": lambda one: one["spec"]["port"],
    "a list where a mapping was expected": lambda one: one.get("list").get("x"),
    "a number where a list was expected": lambda one: list(one["number"]),
    "too short a list": lambda one: one["list"][9],
    "a text that is no number": lambda one: int(one["text"]),
    "too large a number": lambda one: int(float("1e999") * one["number"]),
    "too deep a tree": lambda one: json.dumps(deep(100_000)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_one_that_cannot_be_read_is_reported_and_the_others_are_read(read: Any) -> None:
    good, bad = {"name": "good"}, {"name": "bad", "spec": {}, "list": [], "number": 7, "text": "x"}
    reported: list[tuple[str, Exception]] = []
    found = read_each(
        [good, bad, good],
        lambda one: one["name"] if one is good else read(one),
        lambda one, problem: reported.append((one["name"], problem)),
    )
    assert found == ["good", "good"]
    assert [name for name, _ in reported] == ["bad"]
    assert isinstance(reported[0][1], MALFORMED)


def test_what_is_no_fault_of_an_object_is_raised() -> None:
    def refuse(_: object) -> None:
        raise ClusterError(Fault.UNREACHABLE, "nobody answers", "wait")

    with pytest.raises(ClusterError):
        read_each([{}], refuse, lambda one, problem: None)


@pytest.mark.parametrize(
    ("found", "kind", "title"),
    [
        ({"kind": "Member", "metadata": {"namespace": "shop", "name": "web-1"}}, "", "Member shop/web-1"),
        ({"metadata": {"namespace": "shop", "name": "web"}}, "ServiceAccount", "ServiceAccount shop/web"),
        ({"kind": "Namespace", "metadata": {"name": "shop"}}, "", "Namespace shop"),
        ({"metadata": {}}, "", "object without a name"),
        ({"metadata": None}, "Member", "an object without metadata"),
        (7, "", "an object without metadata"),
    ],
)
def test_an_object_is_named(found: Any, kind: str, title: str) -> None:
    assert object_title(found, kind) == title


def test_a_fault_has_our_own_text_or_type_and_location() -> None:
    assert fault_text(ValueError("ports: a list was expected")) == "ports: a list was expected"
    assert fault_text(KeyError("uid")) == "it has another shape than expected: KeyError"
