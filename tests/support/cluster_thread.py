"""A cluster in a thread of its own, for tests and programs outside of its event loop.

with open_cluster_thread(tmp_path) as thread:
    token = thread.run(MeshCluster.join_token)
"""

import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from support.mesh_cluster import MeshCluster, open_mesh_cluster

T = TypeVar("T")


@dataclass
class ClusterThread:
    """The cluster, a nursery of its event loop, and its wall clock."""

    cluster: MeshCluster
    nursery: trio.Nursery
    now: Callable[[], float]
    _loop: trio.lowlevel.TrioToken

    def run(self, work: Callable[[MeshCluster], Awaitable[T]]) -> T:
        """Run it in the event loop, and wait for its result."""
        return trio.from_thread.run(work, self.cluster, trio_token=self._loop)


def open_cluster_thread(directory: Path, **options: Any) -> AbstractContextManager[ClusterThread]:
    """On the sandbox's API server; `options` are those of `open_mesh_cluster`."""
    return run_cluster_thread(lambda now: open_mesh_cluster(directory, now=now, **options))


@contextmanager
def run_cluster_thread(
    open_cluster: Callable[[Callable[[], float]], AbstractAsyncContextManager[MeshCluster]], rate: float = 1.0
) -> Iterator[ClusterThread]:
    """Any cluster, whose clock runs `rate` times faster than the real one; `open_cluster` gets its wall clock."""
    opened: queue.Queue[ClusterThread | BaseException] = queue.Queue()
    closing, started = trio.Event(), time.time()
    clock = trio.testing.MockClock(rate=rate)

    def now() -> float:
        return started + clock.current_time()

    async def serve() -> None:
        async with open_cluster(now) as cluster, trio.open_nursery() as nursery:
            opened.put(ClusterThread(cluster, nursery, now, trio.lowlevel.current_trio_token()))
            await closing.wait()
            nursery.cancel_scope.cancel()

    def main() -> None:
        try:
            trio.run(serve, clock=clock, strict_exception_groups=True)
        except BaseException as problem:
            opened.put(problem)

    thread = threading.Thread(target=main)
    thread.start()
    found = opened.get()
    try:
        if isinstance(found, BaseException):
            raise found
        yield found
    finally:
        if isinstance(found, ClusterThread):
            trio.from_thread.run_sync(closing.set, trio_token=found._loop)
        thread.join()
