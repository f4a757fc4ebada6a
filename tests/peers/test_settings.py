"""Somebody who may write ConfigMaps in a group's namespace changes the group's settings. Asked of real API servers."""

from collections.abc import Iterator

import pytest

from exclave.api.names import SETTINGS_KEY
from exclave.api.requests import CONFIG_MAPS, Object, Request, delete, patch
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.fake_machines import seen
from peers.kubernetes import AVAILABLE
from support.cluster_thread import ClusterThread
from support.mesh_cluster import MeshCluster

from .cluster_threads import cluster_thread_on

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

PLACE = (NAMESPACE, "exclave-mesh.web")


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), {}) as found:
        yield found


ATTACKS: dict[str, Request] = {
    "a tenant: other settings": patch(CONFIG_MAPS, *PLACE, {"data": {SETTINGS_KEY: '{"version":1}'}}),
    "a tenant: other settings that nobody may change": patch(
        CONFIG_MAPS, *PLACE, {"data": {SETTINGS_KEY: "{}"}, "immutable": True}
    ),
    "a tenant: a megabyte beside the settings": patch(CONFIG_MAPS, *PLACE, {"data": {"more": "x" * 900_000}}),
    "a tenant: deletes the settings": delete(CONFIG_MAPS, *PLACE),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_settings_that_somebody_else_changes_are_written_again(thread: ClusterThread, attack: Request) -> None:
    async def change(cluster: MeshCluster) -> None:
        before = await seen(cluster, CONFIG_MAPS, PLACE, lambda found: True)
        await cluster.admin.send(attack)

        def is_repaired(found: Object) -> bool:
            is_newer = found["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
            return is_newer and found["data"] == before["data"]

        await seen(cluster, CONFIG_MAPS, PLACE, is_repaired)

    thread.run(change)
