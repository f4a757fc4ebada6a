"""An upgrade from the version that wrote no marks: its members go on. Asked of real API servers."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.member import view_member
from exclave.api.names import MARK_SECRET
from exclave.api.requests import MEMBERS, SECRETS, Object, delete, patch
from exclave.cluster.endpoint import Access
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.fake_machines import become, seen
from peers.kubernetes import AVAILABLE
from support.mesh_cluster import MeshCluster, RunningApiServer, furnished

from .cluster_threads import cluster_thread_on

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)


def test_a_member_of_the_previous_version_is_certified_after_the_upgrade(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It has an account, but no mark, and is older than the key. One that somebody wrote by hand has no account."""
    with cluster_thread_on(server, tmp_path_factory.mktemp("before"), {}, tidy=False) as before:

        async def join(cluster: MeshCluster) -> str:
            token = await cluster.join_token(token_id="ccccc")
            return (await become(before, token, "10.77.0.210")).name

        name = before.run(join)

    async def downgrade(cluster: MeshCluster) -> None:
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"status": {"mark": None}}, "status"))
        await cluster.admin.send(delete(SECRETS, "exclave", MARK_SECRET))

    before_upgrade(server, tmp_path_factory.mktemp("between"), downgrade)
    with cluster_thread_on(server, tmp_path_factory.mktemp("after"), {}) as after:

        async def renew(cluster: MeshCluster) -> None:
            csr = make_csr(ec.generate_private_key(ec.SECP256R1()), name)
            await cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"spec": {"csr": csr}}))
            found = await seen(cluster, MEMBERS, (NAMESPACE, name), lambda one: is_certified(one, csr))
            assert len(view_member(found).mark) == 64

        after.run(renew)


def is_certified(found: Object, csr: str) -> bool:
    certificate = view_member(found).certificate
    return certificate is not None and certificate.csr_sha256 == csr_sha256(csr)


def before_upgrade(server: Server, folder: Path, work: Callable[[MeshCluster], Awaitable[None]]) -> None:
    """Change the cluster while no controller runs."""

    async def run() -> None:
        api = RunningApiServer(Access((server.url,), server.ca), server.admin_token, folder, None)  # type: ignore[arg-type]
        async with furnished(api, controlled=False) as cluster:
            await work(cluster)

    trio.run(run)
