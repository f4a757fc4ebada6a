"""A cluster in a thread of its own, so that whoever stands outside of its event loop finds it.

with open_town(tmp_path) as town:
    token = town.do(MeshCluster.join_token)

`town_of` has any cluster, and time that runs faster than the real one: `town.now` is the wall clock there.
"""

import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from support.mesh_cluster import MeshCluster, open_mesh_cluster

T = TypeVar("T")


class Town:
    """The cluster, and a nursery for what goes on in it."""

    def __init__(
        self,
        cluster: MeshCluster,
        nursery: trio.Nursery,
        now: Callable[[], float],
        loop: trio.lowlevel.TrioToken,
    ) -> None:
        self.cluster = cluster
        self.nursery = nursery
        self.now = now
        self._loop = loop

    def do(self, work: Callable[[MeshCluster], Awaitable[T]]) -> T:
        """Do something in the cluster, and wait for it."""
        return trio.from_thread.run(work, self.cluster, trio_token=self._loop)


def open_town(directory: Path, **options: Any) -> AbstractContextManager[Town]:
    """Over the sandbox's API server; `options` are those of `open_mesh_cluster`."""
    return town_of(lambda now: open_mesh_cluster(directory, now=now, **options))


@contextmanager
def town_of(
    opening: Callable[[Callable[[], float]], AbstractAsyncContextManager[MeshCluster]], rate: float = 1.0
) -> Iterator[Town]:
    """A town whose seconds are a `rate`-th of real ones; `opening` is given its wall clock."""
    opened: queue.Queue[Town | BaseException] = queue.Queue()
    closing, started = trio.Event(), time.time()
    clock = trio.testing.MockClock(rate=rate)

    def now() -> float:
        return started + clock.current_time()

    async def live() -> None:
        async with opening(now) as cluster, trio.open_nursery() as nursery:
            opened.put(Town(cluster, nursery, now, trio.lowlevel.current_trio_token()))
            await closing.wait()
            nursery.cancel_scope.cancel()

    def run() -> None:
        try:
            trio.run(live, clock=clock, strict_exception_groups=True)
        except BaseException as problem:
            opened.put(problem)

    thread = threading.Thread(target=run)
    thread.start()
    town = opened.get()
    try:
        if isinstance(town, BaseException):
            raise town
        yield town
    finally:
        if isinstance(town, Town):
            trio.from_thread.run_sync(closing.set, trio_token=town._loop)
        thread.join()
