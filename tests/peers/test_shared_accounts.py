"""Somebody else has rights in the namespace of machines' accounts. Asked of real API servers."""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.member import condition_of
from exclave.api.names import ADOPTED
from exclave.api.requests import ROLE_BINDINGS, WORKLOAD_GROUPS, Object, create, delete, patch
from peers.conftest import Server
from peers.fake_machines import ask_to_join, become, seen
from peers.kubernetes import AVAILABLE
from support.cluster_thread import ClusterThread
from support.mesh_cluster import MeshCluster

from .cluster_threads import cluster_thread_on

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

BANK, TELLER = "bank", "teller"
ACCOUNTS = "bank-vms"
TEAM = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "RoleBinding",
    "metadata": {"name": "team"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
}


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    groups = {(BANK, TELLER): {"networks": ["10.81.0.0/16"]}}
    with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), groups) as found:
        yield found


async def until(cluster: MeshCluster, reason: str) -> str:
    """Wait until the group has this reason; returns its message."""

    def has_reason(found: Object) -> bool:
        accepted = condition_of(found, "Accepted")
        return accepted is not None and accepted.reason == reason

    accepted = condition_of(await seen(cluster, WORKLOAD_GROUPS, (BANK, TELLER), has_reason), "Accepted")
    assert accepted is not None
    return accepted.message


def test_a_group_takes_no_machine_while_a_stranger_may_make_tokens_of_its_machines(thread: ClusterThread) -> None:
    async def share(cluster: MeshCluster) -> None:
        await until(cluster, "Accepted")
        await cluster.admin.send(create(ROLE_BINDINGS, ACCOUNTS, TEAM))
        assert "RoleBinding team (ClusterRole admin): User eve" in await until(cluster, "NamespaceShared")

    async def accept(cluster: MeshCluster) -> None:
        adopted = {"metadata": {"annotations": {ADOPTED: "team"}}}
        await cluster.admin.send(patch(WORKLOAD_GROUPS, BANK, TELLER, adopted))
        await until(cluster, "Accepted")

    async def join(cluster: MeshCluster) -> None:
        token = await cluster.join_token(token_id="sssss", namespace=BANK, group=TELLER)
        await become(thread, token, "10.81.0.7")
        await cluster.admin.send(delete(ROLE_BINDINGS, ACCOUNTS, "team"))

    async def be_refused(cluster: MeshCluster) -> None:
        token = await cluster.join_token(token_id="rrrrr", namespace=BANK, group=TELLER)
        key = ec.generate_private_key(ec.SECP256R1())
        view = await ask_to_join(cluster, token, "10.81.0.6", key)
        assert view.admitted is not None
        assert (view.admitted.reason, view.credential) == ("GroupNotAccepted", None)

    for step in (share, be_refused, accept, join):
        thread.run(step)
