"""Waiting for any of several values."""

import trio
import trio.testing

from exclave.kit.tasks.any_change import open_changed
from exclave.kit.tasks.latest import Latest


async def test_a_change_of_any_source_wakes_the_reader(autojump_clock: trio.testing.MockClock) -> None:
    a, b = Latest(1), Latest("x")
    seen = []
    async with open_changed(a, b) as changed:

        async def read() -> None:
            async for _ in changed.changes():
                seen.append((a.value, b.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            b.set("y")
            await trio.sleep(1)
            a.set(2)
            a.set(3)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert seen == [(1, "x"), (1, "y"), (3, "y")]


async def test_a_change_right_after_opening_is_not_missed() -> None:
    a = Latest(1)
    async with open_changed(a) as changed:
        a.set(2)
        with trio.fail_after(5):
            await changed.wait_for(lambda count: count > 0)
