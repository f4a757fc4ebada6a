"""JSON from outside: one error, whatever is wrong with it."""

import pytest

from exclave.kit.formats.json_text import parse_json


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
