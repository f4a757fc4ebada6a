"""JSON from outside: one error, whatever is wrong with it."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.formats.json_text import DEEPEST, LONGEST_NUMBER, parse_json, parse_json_cut


def test_text_and_bytes_are_read() -> None:
    assert parse_json('{"a": [1, null]}') == parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "s3cret", b"\xff", "[" * 100_000, b'{"a":' * 100_000, "9" * 100_000],
    ids=["empty", "cut off", "a word", "no UTF-8", "deep lists", "deep objects", "a number without end"],
)
def test_whatever_is_wrong_is_a_value_error_that_quotes_nothing(text: str | bytes) -> None:
    with pytest.raises(ValueError) as refused:
        parse_json(text)
    assert "s3cret" not in str(refused.value)


def nested(levels: int, innermost: bytes = b"1") -> bytes:
    return b'{"a":' * levels + innermost + b"}" * levels


def test_the_depth_that_is_read_depends_on_no_version_of_python() -> None:
    assert parse_json(nested(DEEPEST))
    with pytest.raises(ValueError, match=f"JSON of at most {DEEPEST} levels was expected"):
        parse_json(nested(DEEPEST + 1))


def test_brackets_in_texts_are_no_levels() -> None:
    text = json.dumps({"a": "[" * 1000, 'b"\\': '\\"' + "{" * 1000, "c": "]" * 1000})
    assert parse_json(text) == json.loads(text)
    hidden = b'["' + b"]" * 1000 + b'",' + nested(DEEPEST) + b"]"
    with pytest.raises(ValueError, match="levels"):
        parse_json(hidden)


BESIDE = b'"b":[1,{"c":"[\\"{"}],"n":1.5}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a":' + nested(9_900) + b"," + BESIDE, None),
        (b'{"a":' + b"[" * 9_900 + b"]" * 9_900 + b"," + BESIDE, None),
        (b'{"a":' + b"9" * 5000 + b"," + BESIDE, None),
        (b'{"a":-1.' + b"9" * 5000 + b"e5," + b'"d":' + b"9" * 5000 + b"," + BESIDE, None),
        (b'{"a":"\xff\xfe",' + BESIDE, "\ufffd\ufffd"),
        (b'{"a":[' + nested(300) + b"," + nested(300) + b"]," + BESIDE, None),
    ],
    ids=["objects", "lists", "a long number", "long numbers", "bytes that are no UTF-8", "two in a list"],
)
def test_an_excess_is_cut_away_and_the_rest_is_read(text: bytes, expected: object) -> None:
    value, is_cut = parse_json_cut(text)
    assert is_cut
    assert (value["b"], value["n"]) == ([1, {"c": '["{'}], 1.5)
    innermost, levels = value["a"], 1
    while isinstance(innermost, (dict, list)):
        innermost, levels = (innermost[0] if isinstance(innermost, list) else innermost["a"]), levels + 1
    assert innermost == expected
    assert levels in (1, DEEPEST)


def test_text_without_an_excess_is_not_cut() -> None:
    assert parse_json_cut(b'{"a": [1, null]}') == ({"a": [1, None]}, False)
    assert parse_json_cut(b"9" * (LONGEST_NUMBER - 1)) == (int("9" * (LONGEST_NUMBER - 1)), False)
    with pytest.raises(ValueError, match="Expecting"):
        parse_json_cut(b'{"a": ')


@given(st.binary(max_size=50), st.integers(0, 400), st.sampled_from([b"[", b'{"a":', b'"', b"\\", b"9", b"]"]))
def test_any_bytes_are_a_value_or_a_value_error(start: bytes, times: int, unit: bytes) -> None:
    for text in (start + unit * times, unit * times + start, start + unit * times + start):
        try:
            value, _ = parse_json_cut(text)
        except ValueError:
            continue
        json.dumps(value)


@pytest.mark.parametrize("unit", [b"[", b"{", b'"', b'"\\', b"\\", b'\\"', b"9", b"]"])
def test_the_time_grows_with_the_length_and_not_with_its_square(unit: bytes) -> None:
    def seconds(length: int) -> float:
        text, began = b'{"a":' + unit * (length // len(unit)), time.process_time()
        with pytest.raises(ValueError):
            parse_json_cut(text)
        return time.process_time() - began

    seconds(1000)
    assert seconds(400_000) < 40 * max(seconds(40_000), 0.01)
