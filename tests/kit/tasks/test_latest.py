"""Published values: `exclave.kit.tasks.latest`."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.tasks.latest import Latest, open_any_change


async def test_a_reader_waits_for_a_value_it_accepts(autojump_clock: trio.testing.MockClock) -> None:
    latest = Latest(0)

    async def count() -> None:
        for number in range(1, 6):
            await trio.sleep(1)
            latest.set(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert await latest.wait_for(lambda value: value >= 3) == 3
        assert await latest.wait_change() == 4
    assert latest.value == 5


async def test_an_acceptable_value_is_returned_at_once() -> None:
    assert await Latest(7).wait_for(lambda value: value == 7) == 7


async def test_a_busy_reader_misses_what_is_in_between_and_never_the_last() -> None:
    latest = Latest("a")
    changes = latest.changes()
    assert await changes.__anext__() == "a"
    latest.set("b")
    latest.set("c")
    assert await changes.__anext__() == "c"
    latest.set("d")
    assert await changes.__anext__() == "d"


async def test_an_equal_value_wakes_nobody() -> None:
    latest = Latest((1, 2))
    with trio.move_on_after(0) as waited:
        latest.set((1, 2))
        await latest.wait_change()
    assert waited.cancelled_caught


async def test_every_waiting_reader_wakes() -> None:
    latest = Latest(False)
    woken = []

    async def read(name: int) -> None:
        await latest.wait_for(bool)
        woken.append(name)

    async with trio.open_nursery() as nursery:
        for name in range(10):
            nursery.start_soon(read, name)
        await trio.testing.wait_all_tasks_blocked()
        latest.set(True)
    assert sorted(woken) == list(range(10))


async def test_a_value_set_while_the_first_is_read_is_delivered() -> None:
    latest = Latest(1)
    seen = []
    with trio.fail_after(5):
        async for value in latest.changes():
            seen.append(value)
            if value == 3:
                break
            latest.set(value + 1)
    assert seen == [1, 2, 3]


@given(st.lists(st.integers(0, 3), max_size=30))
def test_the_value_is_the_one_set_last(values: list[int]) -> None:
    async def main() -> None:
        latest = Latest(-1)
        for value in values:
            latest.set(value)
        assert latest.value == (values or [-1])[-1]

    trio.run(main)


async def test_waiting_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    latest = Latest(0)
    with pytest.raises(trio.TooSlowError), trio.fail_after(1):
        await latest.wait_for(bool)


async def test_a_change_of_any_source_wakes_the_reader(autojump_clock: trio.testing.MockClock) -> None:
    a, b = Latest(1), Latest("x")
    read = []
    async with open_any_change(a, b) as change:

        async def read_all() -> None:
            async for _ in change.wakes():
                read.append((a.value, b.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all)
            await trio.sleep(1)
            b.set("y")
            await trio.sleep(1)
            a.set(2)
            a.set(3)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert read == [(1, "x"), (1, "y"), (3, "y")]


async def test_a_change_right_after_opening_is_not_missed() -> None:
    a = Latest(1)
    async with open_any_change(a) as change:
        a.set(2)
        with trio.fail_after(5):
            await change.wait()


async def test_changes_while_the_reader_works_end_one_wait_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    a = Latest(1)
    async with open_any_change(a) as change:
        for value in (2, 3, 4):
            a.set(value)
            await trio.sleep(1)
        began = trio.current_time()
        await change.wait(60)
        assert trio.current_time() == began
        await change.wait(60)
        assert trio.current_time() == began + 60
