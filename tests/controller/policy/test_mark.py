"""Marks of admission: whose they are, and what their Secret must contain."""

from typing import Any

import pytest

from exclave.controller.policy.mark import MarkKey, has_mark, is_older, key_object, mark_of, read_key
from exclave.kit.formats.times import rfc3339

from ..snapshots import MARK_KEY, NOW, make_member, with_metadata


@pytest.mark.parametrize(
    "metadata",
    [{"uid": "another"}, {"namespace": "bank"}, {"name": "web-k7q2x-2"}, {"name": "api-k7q2x-1"}],
    ids=str,
)
def test_a_mark_is_one_members(metadata: dict[str, Any]) -> None:
    member = make_member()
    other = with_metadata(member, **metadata)
    assert has_mark(MARK_KEY, member, mark_of(MARK_KEY, member))
    assert not has_mark(MARK_KEY, other, mark_of(MARK_KEY, member))
    assert not has_mark(MarkKey(b"o" * 32), member, mark_of(MARK_KEY, member))


@pytest.mark.parametrize("mark", ["", "0" * 64, "é", "\ud800"[:0]], ids=ascii)
def test_other_texts_are_no_mark(mark: str) -> None:
    assert not has_mark(MARK_KEY, make_member(), mark)


def test_a_name_of_another_form_has_no_mark() -> None:
    odd = with_metadata(make_member(), name="web-k7q2x-01")
    assert not has_mark(MARK_KEY, odd, mark_of(MARK_KEY, make_member()))


def test_only_members_from_before_the_key_may_be_adopted() -> None:
    key = MarkKey(b"k" * 32, NOW - 100.0)
    assert is_older(make_member(age=101.0), key)
    assert not is_older(make_member(age=100.0), key)
    assert not is_older(with_metadata(make_member(age=101.0), creationTimestamp="nonsense"), key)


def test_the_secret_is_read_as_it_was_made() -> None:
    made = with_metadata(key_object("exclave", b"s" * 32), creationTimestamp=rfc3339(NOW))
    assert made["metadata"]["namespace"] == "exclave"
    assert read_key(made) == MarkKey(b"s" * 32, NOW)
    assert "ssss" not in repr(read_key(made))


@pytest.mark.parametrize("data", [None, {}, {"key": ""}, {"key": "c2hvcnQ="}, {"key": "?"}, {"key": 5}], ids=str)
def test_a_secret_without_such_a_key_is_refused_with_the_remedy(data: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes were expected; delete the Secret"):
        read_key({"metadata": {}, "data": data})
