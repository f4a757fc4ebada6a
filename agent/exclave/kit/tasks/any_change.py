"""One thing to wait for where several published values matter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import trio

from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery


class AnyChange:
    """Wakes one reader when any of several values changes. Made by `open_any_change`.

    The reader reads the values itself. Changes while it works are not missed: its next `wait` returns at once, one
    time, however many there were.
    """

    def __init__(self) -> None:
        self._count = Latest(0)
        self._reported = 0

    async def wait(self, timeout: float = inf) -> None:
        """Return when a value has changed since the last `wait` returned, or after `timeout` seconds."""
        with trio.move_on_after(timeout):
            await self._count.wait_for(lambda count: count != self._reported)
        self._reported = self._count.value

    async def wakes(self) -> AsyncIterator[None]:
        """Wake now, and at each change."""
        while True:
            yield
            await self.wait()

    def add_nowait(self) -> None:
        """Count one change."""
        self._count.set(self._count.value + 1)


@asynccontextmanager
async def open_any_change(*sources: Latest[Any]) -> AsyncIterator[AnyChange]:
    """Follow all `sources` while the block runs."""
    change = AnyChange()

    async def follow(source: Latest[Any], *, task_status: "trio.TaskStatus[None]") -> None:
        is_first = True
        async for _ in source.changes():
            if is_first:  # the value at the start is no change; from here on none is missed
                task_status.started()
                is_first = False
            else:
                change.add_nowait()

    async with open_bare_nursery() as nursery:
        for source in sources:
            await nursery.start(follow, source)
        yield change
        nursery.cancel_scope.cancel()
