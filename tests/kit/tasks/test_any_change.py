"""Waiting for any of several values."""

import trio
import trio.testing

from exclave.kit.tasks.any_change import open_any_change
from exclave.kit.tasks.latest import Latest


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
