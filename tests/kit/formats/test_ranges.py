"""Ranges of numbers, against sets of them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.kit.formats.ranges import Span, as_span, merge, parse_span, render_span, without


def numbers(spans: tuple[Span, ...]) -> set[int]:
    return {number for first, last in spans for number in range(first, last + 1)}


SPANS = some.lists(
    some.integers(1, 60) | some.tuples(some.integers(1, 60), some.integers(0, 9)).map(lambda pair: (pair[0], sum(pair)))
)


@given(given=SPANS)
def test_merging_changes_no_number_and_no_two_spans_touch(given: "list[int | Span]") -> None:
    merged = merge(given)
    assert numbers(merged) == numbers(tuple(map(as_span, given)))
    assert all(before[1] + 1 < after[0] for before, after in pairwise(merged))


@given(given=SPANS, holes=some.lists(some.integers(1, 60)))
def test_each_hole_removes_one_number(given: "list[int | Span]", holes: list[int]) -> None:
    left = without(given, *holes)
    assert numbers(left) == numbers(merge(given)) - set(holes)
    assert left == merge(left)


@given(first=some.integers(0, 65535), more=some.integers(1, 9))
def test_what_is_written_is_read(first: int, more: int) -> None:
    span = (first, first + more)
    assert parse_span(render_span(span)) == span
    assert render_span((first, first)) == str(first)


@pytest.mark.parametrize("text", ["", "80", "80-", "-80", "80-90-100", "80 - 90", " 80-90", "80-90\n", "٨-٩", "a-b"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_span(text)
    assert str(caught.value) == f"a range such as 8000-8100 was expected, found {text!r}"


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        parse_span("90-80")
    assert str(caught.value) == "a range that begins with its lower end was expected, found '90-80'"
