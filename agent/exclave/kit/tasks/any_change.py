"""One thing to wait for where several values matter.

Rules: a change of any source is seen; many at once are seen as one; the reader reads the sources themselves.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery


@asynccontextmanager
async def open_changed(*sources: Latest[Any]) -> AsyncIterator[Latest[int]]:
    """Count the changes of all sources while open: `async for _ in changed.changes()` wakes now and at each one."""
    count = Latest(0)

    async def follow(source: Latest[Any], *, task_status: "trio.TaskStatus[None]") -> None:
        first = True
        async for _ in source.changes():
            if first:  # today's value is no change; from here on none is missed
                task_status.started()
                first = False
            else:
                count.set(count.value + 1)

    async with open_bare_nursery() as nursery:
        for source in sources:
            await nursery.start(follow, source)
        yield count
        nursery.cancel_scope.cancel()
