"""A cluster thread on a real API server: the admission policies, the real controller, and a faster clock.

Each module has one, so that a server has one controller at a time. Members are removed at the end.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from exclave.admin.objects import group_objects
from exclave.api.names import accounts_namespace, parse_member_name
from exclave.api.requests import MEMBERS, SERVICE_ACCOUNTS, delete, list_all
from exclave.cluster.endpoint import Access
from exclave.errors import ApiRefusal
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from support.cluster_thread import ClusterThread, run_cluster_thread
from support.mesh_cluster import MeshCluster, RunningApiServer, furnished

RATE = 5.0
"""Its seconds within a real one. A silent member is dead after six real seconds; an answer may take three."""


@contextmanager
def cluster_thread_on(
    server: Server,
    folder: Path,
    groups: dict[tuple[str, str], dict[str, Any]],
    rate: float = RATE,
    *,
    tidy: bool = True,
) -> Iterator[ClusterThread]:
    """It has group `web` in `shop`, and these groups: specs by namespace and name. Without `tidy` members stay."""

    @asynccontextmanager
    async def opening(now: Callable[[], float]) -> AsyncIterator[MeshCluster]:
        access = Access((server.url,), server.ca)
        api = RunningApiServer(access, server.admin_token, folder, None)  # type: ignore[arg-type]
        async with furnished(api, now=now) as cluster:
            for (namespace, name), spec in groups.items():
                await cluster.put(group_objects(namespace, name, spec, "exclave"))
            yield cluster

    with run_cluster_thread(opening, rate) as thread:
        try:
            yield thread
        finally:
            if tidy:
                thread.run(partial(remove_all, {NAMESPACE, *(namespace for namespace, _ in groups)}))


async def remove_all(namespaces: Collection[str], cluster: MeshCluster) -> None:
    """Evict whoever is left there, and wait until they are gone; other tests' members are other tests'."""
    with trio.fail_after(300):
        while True:
            listed = (await cluster.admin.send(list_all(MEMBERS, None)))["items"]
            found = [member for member in listed if member["metadata"]["namespace"] in namespaces]
            if not found:
                return
            async with trio.open_nursery() as nursery:
                for member in found:
                    if not member["metadata"].get("deletionTimestamp"):
                        place = (member["metadata"]["namespace"], member["metadata"]["name"])
                        nursery.start_soon(partial(evict, cluster, *place))
            await trio.sleep(1)


async def evict(cluster: MeshCluster, namespace: str, name: str) -> None:
    """As `kubectl exclave member evict` does: the account first, then the Member."""
    account = (SERVICE_ACCOUNTS, accounts_namespace(namespace), parse_member_name(name).account)
    for what in (account, (MEMBERS, namespace, name)):
        try:
            await cluster.admin.send(delete(*what))
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
