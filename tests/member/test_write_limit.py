"""When a value that somebody else has overwritten is written again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.member.write_limit import FORGET, PAUSES, REPORTED, WriteLimit


def written(*times: float, value: object = "a") -> WriteLimit:
    limit = WriteLimit()
    for time in times:
        limit.observe_write(value, time)
    return limit


def test_a_new_value_is_written_at_once() -> None:
    assert WriteLimit().pause("a", 0.0) == 0
    assert written(0.0, 2.0, 6.0).pause("b", 6.0) == 0


def test_a_value_that_was_overwritten_long_after_its_write_is_written_at_once() -> None:
    assert written(0.0).pause("a", PAUSES.first) == 0


def test_the_pauses_double_up_to_the_longest() -> None:
    limit, now, pauses = WriteLimit(), 0.0, []
    for _ in range(11):
        limit.observe_write("a", now)
        pauses.append(limit.pause("a", now))
        now += pauses[-1]
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_a_pause_ends_with_time() -> None:
    assert written(0.0, 2.0).pause("a", 5.0) == 1


def test_after_a_long_time_the_pauses_begin_anew() -> None:
    limit = written(0.0, 2.0, 6.0)
    limit.observe_write("a", 6.0 + FORGET + 1)
    assert limit.pause("a", 6.0 + FORGET + 1) == PAUSES.first


def test_another_value_begins_anew_and_so_does_the_first_one_after_it() -> None:
    limit = written(0.0, 2.0, 6.0)
    limit.observe_write("b", 7.0)
    assert limit.pause("b", 7.0) == PAUSES.first
    assert limit.pause("a", 7.0) == 0


@pytest.mark.parametrize(
    ("times", "now", "is_conflict"),
    [
        pytest.param((), 0.0, False, id="nothing was written"),
        pytest.param((0.0, 2.0), 2.0, False, id="one correction may be a mistake of an admin"),
        pytest.param((0.0, 2.0, 6.0), 6.0, True, id="again and again"),
        pytest.param((0.0, 2.0, 6.0), 6.0 + FORGET, True, id="the other machine may pause as long"),
        pytest.param((0.0, 2.0, 6.0), 6.0 + FORGET + 1, False, id="the value has stood for long"),
    ],
)
def test_a_conflict_is_more_than_one_correction(times: tuple[float, ...], now: float, is_conflict: bool) -> None:
    assert REPORTED == 2
    assert written(*times).is_conflict("a", now) is is_conflict
    assert not written(*times).is_conflict("b", now)


@given(st.lists(st.floats(0.0, 60.0), max_size=500))
def test_however_often_it_is_overwritten_few_writes_follow(gaps: list[float]) -> None:
    limit, now, writes = WriteLimit(), 0.0, 0
    for gap in gaps:
        now += gap
        if limit.pause("a", now) == 0:
            limit.observe_write("a", now)
            writes += 1
    doubling = 9  # 1 write, and those after 2, 4, … 256 s
    assert writes <= doubling + now / PAUSES.most + 1
