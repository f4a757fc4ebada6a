"""A value with one writer and many readers who care for the newest only.

Rules: `set` never waits; readers may miss values in between, never the last one; equal values wake nobody.
"""

from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import trio

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
        """Wait until a value other than today's is published, and return it."""
        await self._changed.wait()
        return self._value

    async def changes(self) -> AsyncIterator[T]:
        """Yield today's value, then each newer one; conflated while the reader is busy."""
        while True:
            changed = self._changed
            yield self._value
            await changed.wait()
