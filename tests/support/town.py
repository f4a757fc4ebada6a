"""A cluster in a thread of its own, so that commands, which run trio themselves, find it.

with open_town(tmp_path) as town:
    token = town.do(MeshCluster.join_token)
"""

import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from support.mesh_cluster import MeshCluster, open_mesh_cluster

T = TypeVar("T")


class Town:
    """The cluster, for whoever stands outside of its event loop."""

    def __init__(self, cluster: MeshCluster, loop: trio.lowlevel.TrioToken) -> None:
        self.cluster = cluster
        self._loop = loop

    def do(self, work: Callable[[MeshCluster], Awaitable[T]]) -> T:
        """Do something in the cluster, and wait for it."""
        return trio.from_thread.run(work, self.cluster, trio_token=self._loop)


@contextmanager
def open_town(directory: Path, **options: Any) -> Iterator[Town]:
    """`options` are those of `open_mesh_cluster`."""
    opened: queue.Queue[Town | BaseException] = queue.Queue()
    closing = trio.Event()

    async def live() -> None:
        async with open_mesh_cluster(directory, **options) as cluster:
            opened.put(Town(cluster, trio.lowlevel.current_trio_token()))
            await closing.wait()

    def run() -> None:
        try:
            trio.run(live, strict_exception_groups=True)
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
