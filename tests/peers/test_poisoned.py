"""Objects that stop a careless reader, beside a machine that joins. Asked of real API servers.

Each row stores what somebody with the role `edit` in one namespace, or a stolen join token, may store. Afterwards an
honest machine joins and leaves as if nothing were there.
"""

import logging
from collections.abc import Iterator

import httpx
import pytest
import trio

from exclave.api.requests import EXTERNAL_WORKLOADS, LEASES, MEMBERS, Resource, get, path_of
from peers.conftest import Server
from peers.fake_machines import IDS, Machine, become, gone
from peers.kubernetes import AVAILABLE
from support.cluster_thread import ClusterThread
from support.mesh_cluster import MeshCluster

from .attacks import fields_of, nested
from .cluster_threads import cluster_thread_on, evict
from .test_contract import lease

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

MERGE = {"Content-Type": "application/merge-patch+json"}
JSON = {"Content-Type": "application/json"}
DEEP, NO_UTF8 = nested(9_995), b'{"f:spec":{"f:\xff\xfe":{}}}'
ORCHARD = "orchard"


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    spec = {"networks": ["10.78.0.0/16"], "ports": [{"name": "http", "port": 8080}]}
    groups = {(ORCHARD, "wide"): spec}
    with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), groups, rate=1.0) as found:
        yield found


async def honest(thread: ClusterThread, token_id: str, address: str) -> Machine:
    """A machine that joins, serves, and is listed."""
    token = await thread.cluster.join_token(token_id=token_id, namespace=ORCHARD, group="wide")
    machine = await become(thread, token, address)
    await machine.serve()
    return machine


async def leave(cluster: MeshCluster, machine: Machine) -> None:
    await evict(cluster, *machine.place)
    await gone(cluster, MEMBERS, machine.place)


LABELLED = {"labels": {"exclave.dev/group": "web"}}


@pytest.mark.parametrize("content", [DEEP, NO_UTF8], ids=["9,995 levels", "bytes that are no UTF-8"])
@pytest.mark.parametrize("metadata", [{}, LABELLED], ids=["a tenant's Lease", "a tenant's Lease with exclave's label"])
def test_a_tenant_a_poisoned_lease(
    thread: ClusterThread, server: Server, metadata: dict[str, object], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"tenant-{next(IDS):x}"
    with server.client(server.admin_token) as tenant:
        body = fields_of(content, **{**lease(name), "metadata": {"name": name, **metadata}})
        answer = tenant.post(path_of(LEASES, "default"), content=body, headers=JSON)
        assert answer.status_code == 201, answer.text
        if content is DEEP:
            with pytest.raises(RecursionError):
                tenant.get(path_of(LEASES, "default", name)).json()

    async def attack(cluster: MeshCluster) -> None:
        await leave(cluster, await honest(thread, f"l{next(IDS) % 10_000:04d}", "10.78.0.5"))

    thread.run(attack)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.parametrize("resource", [MEMBERS, EXTERNAL_WORKLOADS, LEASES], ids=lambda resource: resource.kind)
def test_a_tenant_a_poisoned_object_of_a_member_which_can_be_evicted(
    thread: ClusterThread, server: Server, resource: Resource
) -> None:
    def poison(client: httpx.Client, name: str) -> None:
        body = fields_of(nested(1_000), apiVersion=resource.api_version)
        answer = client.patch(path_of(resource, ORCHARD, name), content=body, headers=MERGE)
        assert answer.status_code == 200, answer.text
        assert answer.text.count("f:a") > 900

    async def attack(cluster: MeshCluster) -> None:
        machine = await honest(thread, f"p{next(IDS) % 10_000:04d}", "10.78.0.6")
        with server.client(server.admin_token) as tenant:
            await trio.to_thread.run_sync(poison, tenant, machine.name)
        assert (await cluster.admin.send(get(resource, *machine.place)))["metadata"]["name"] == machine.name
        other = await honest(thread, f"q{next(IDS) % 10_000:04d}", "10.78.0.7")
        await leave(cluster, machine)
        await leave(cluster, other)

    thread.run(attack)
