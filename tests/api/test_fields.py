"""Fields of JSON objects: what each reader accepts, and how it refuses the rest."""

from typing import Any

import pytest

from exclave.api import fields
from exclave.api.fields import FieldError


def one_to_nine(found: Any) -> float:
    return fields.number({"a": found}, "a", 7.0, least=1.0, most=9.0)


REFUSED: dict[str, tuple[Any, str]] = {
    "null is no text": (lambda: fields.need({"a": None}, "a", str), "a: str was expected, found NoneType"),
    "nor is what is missing": (lambda: fields.need({}, "a", str, "b."), "b.a: str was expected, found NoneType"),
    "true is no number": (lambda: fields.whole({"a": True}, "a", 0, 9), "a: int was expected, found bool"),
    "a text cannot be empty": (lambda: fields.text({"a": ""}, "a"), "a: a text was expected, found none"),
    "half a character is no text": (
        lambda: fields.text({"a": "\ud800"}, "a"), "a: a text was expected, found '\\ud800'",
    ),
    "a NUL is no text": (lambda: fields.text({"a": "x\0"}, "a"), "a: a text was expected, found 'x\\x00'"),
    "nor is a line end": (lambda: fields.text({"a": "x\n"}, "a"), "a: a text was expected, found 'x\\n'"),
    "nor is a NUL in lines": (
        lambda: fields.text({"a": "x\n\0"}, "a", lines=True), "a: a text was expected, found 'x\\n\\x00'",
    ),
    "a text that is too long": (
        lambda: fields.text({"a": "x" * 5000}, "a"), "a: at most 4096 characters were expected, found 5000",
    ),
    "a list that is too long": (
        lambda: fields.networks({"a": ["10.0.0.0/8"] * 1001}, "a"), "a: at most 1000 entries were expected, found 1001",
    ),
    "a mapping with too many keys": (
        lambda: fields.optional({"a": {str(key): 1 for key in range(1001)}}, "a", dict),
        "a: at most 1000 entries were expected, found 1001",
    ),
    "a number below": (lambda: fields.whole({"a": -1}, "a", 0, 9), "a: 0 to 9, found -1"),
    "a number above": (lambda: one_to_nine(9.5), "a: a number from 1 to 9 was expected, found 9.5"),
    "not a number": (lambda: one_to_nine(float("nan")), "a: a number from 1 to 9 was expected, found nan"),
    "null is no number": (lambda: one_to_nine(None), "a: a number from 1 to 9 was expected, found None"),
    "another word": (lambda: fields.one_of({"a": "z"}, "a", "x", "y"), "a: x or y was expected, found 'z'"),
    "a list is no word": (lambda: fields.one_of({"a": ["x"]}, "a", "x", "y"), "a: x or y was expected, found list"),
    "too short a time": (lambda: fields.seconds({"a": "1s"}, "a", "5s", least=2.0), "a: at least 2s, found 1s"),
    "too long a time": (lambda: fields.seconds({"a": "9000000h"}, "a", "5s"), "a: at most 8760000h, found 9000000h"),
    "a name is no address": (lambda: fields.addresses({"a": ["x"]}, "a"), "a: IP addresses were expected, found 'x'"),
    "a long text is cut": (lambda: fields.one_of({"a": "z" * 200}, "a", "x"), f"a: x was expected, found '{'z' * 99}…"),
}  # fmt: skip


@pytest.mark.parametrize(("read", "words"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_field_is_refused_with_its_name(read: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        read()
    assert str(caught.value) == words


def test_what_is_absent_has_its_default_and_null_as_well_where_that_means_the_same() -> None:
    for tree in ({}, {"a": None}):
        assert fields.optional(tree, "a", list) == []
        assert fields.one_of(tree, "a", "x", "y") == "x"
        assert fields.seconds(tree, "a", "5s") == 5.0
    assert fields.number({}, "a", 7.0, 1.0, 9.0) == 7.0
    assert fields.addresses({}, "a") == ()


def test_a_field_that_is_there_is_returned_as_it_is() -> None:
    assert fields.addresses({"a": ["10.0.0.1", "fd00::1"]}, "a") == ("10.0.0.1", "fd00::1")
    assert fields.networks({"a": ["10.0.0.1/8"]}, "a") == ("10.0.0.1/8",)
    assert fields.number({"a": 2}, "a", 7.0, 1.0, 9.0) == 2.0
