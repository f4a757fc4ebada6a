"""Following one object on real API servers that are restarted, as agents and controllers do."""

from collections import Counter
from pathlib import Path

import pytest
import trio

from exclave.api.requests import CONFIG_MAPS, Object, create, delete, patch
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.watch import Removed, Upserted

from .kubernetes import AVAILABLE, Kubernetes, running_kubernetes

OTHERS = 150  # changes of other objects: more than an API server's cache holds at first
PATIENCE = 120.0  # seconds


@pytest.mark.parametrize("release", AVAILABLE)
def test_one_object_is_followed_after_a_restart_and_changes_of_others(release: str, tmp_path: Path) -> None:
    with running_kubernetes(release, tmp_path) as kubernetes:
        counts = trio.run(follow_one, kubernetes)
    # Its own version is too old for a watch. A watch from there would be refused, and the object read again, for ever.
    assert counts == {("get", "200"): 1, ("watch", "200"): 1}


async def follow_one(kubernetes: Kubernetes) -> Counter[tuple[str, str]]:
    access = Access((kubernetes.url,), kubernetes.ca)
    async with open_cluster(access, lambda: kubernetes.admin_token) as cluster:
        await make(cluster, "one")
        for number in range(OTHERS):
            await make(cluster, f"other-{number}")
        await kubernetes.close()
        await kubernetes.open()
        cluster.counts.clear()
        with trio.fail_after(PATIENCE):
            async with cluster.watch(CONFIG_MAPS, "default", "one") as events:
                assert data_of(await events.__anext__()) == {"k": "1"}
                while not cluster.counts["watch", "200"]:  # noqa: ASYNC110  the stream opens without an event
                    await trio.sleep(0.1)
                counts = Counter(cluster.counts)
                await cluster.send(patch(CONFIG_MAPS, "default", "one", {"data": {"k": "2"}}))
                assert data_of(await events.__anext__()) == {"k": "2"}
                await cluster.send(delete(CONFIG_MAPS, "default", "one"))
                assert isinstance(await events.__anext__(), Removed)
                assert cluster.counts["watch", "200"] == counts["watch", "200"]
                assert cluster.counts["get", "200"] == counts["get", "200"]
        return counts


async def make(cluster: Cluster, name: str) -> None:
    body: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "1"}}
    await cluster.send(create(CONFIG_MAPS, "default", body))


def data_of(event: object) -> object:
    assert isinstance(event, Upserted)
    return event.object["data"]
