"""The words between the watch machine and its shell are values: equal by content, never changed."""

import dataclasses
from typing import get_args

import pytest

from exclave.cluster.watch_events import Action, Lost, Pause, Removed, Report, Upserted, WatchEvent

WORDS = [*get_args(WatchEvent), *get_args(Action), *get_args(Report)]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
def test_a_word_never_changes(word: type) -> None:
    assert dataclasses.is_dataclass(word)
    assert word.__dataclass_params__.frozen


def test_words_are_equal_by_content_and_differ_by_kind() -> None:
    found = {"metadata": {"name": "a"}}
    assert Upserted(found) == Upserted(dict(found))
    assert Upserted(found) != Removed(found)
    assert Pause(1.0, "x") != Pause(2.0, "x")
    assert Lost("x") != Lost("y")
