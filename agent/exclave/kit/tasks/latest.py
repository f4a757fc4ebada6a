"""A value with one writer and many readers of the newest value, and one wake-up for changes of several values.

`set` never waits. Readers may miss values in between, never the last one. An equal value wakes no reader.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Generic, TypeVar

import trio

from exclave.kit.tasks.nursery import open_bare_nursery

T = TypeVar("T")


class Latest(Generic[T]):
    """The newest `T`. Read `.value`; wait with `wait_for` or `changes`."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = trio.Event()

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> None:
        """Publish a value; waiting readers wake if it differs from the one before."""
        if value == self._value:
            return
        self._value = value
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_for(self, accept: Callable[[T], bool]) -> T:
        """Wait until the newest value is acceptable, and return it."""
        while not accept(self._value):
            await self._changed.wait()
        return self._value

    async def wait_change(self) -> T:
        """Wait until another value than the current one is published, and return it."""
        await self._changed.wait()
        return self._value

    async def changes(self) -> AsyncIterator[T]:
        """Yield the current value, then newer ones; a busy reader gets only the newest."""
        while True:
            changed = self._changed
            yield self._value
            await changed.wait()


class AnyChange:
    """Wakes one reader when a value changes; no change between two waits is lost. Made by `open_any_change`."""

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
        """Record a change."""
        self._count.set(self._count.value + 1)


@asynccontextmanager
async def open_any_change(*sources: Latest[Any]) -> AsyncIterator[AnyChange]:
    """Follow all `sources` while the block runs."""
    change = AnyChange()

    async def follow(source: Latest[Any], *, task_status: "trio.TaskStatus[None]") -> None:
        is_first = True
        async for _ in source.changes():
            if is_first:  # the initial value is not a change; later ones are never missed
                task_status.started()
                is_first = False
            else:
                change.add_nowait()

    async with open_bare_nursery() as nursery:
        for source in sources:
            await nursery.start(follow, source)
        yield change
        nursery.cancel_scope.cancel()
