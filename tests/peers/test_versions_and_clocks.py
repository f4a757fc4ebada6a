"""Controllers that are not like each other: another version beside this one, and one whose clock is wrong.

They are programs, as a Deployment runs them, on real API servers.
"""

import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

import exclave
from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.member import member_object, view_member
from exclave.api.names import CONTROLLER
from exclave.api.requests import MEMBERS, SERVICE_ACCOUNTS, create
from exclave.cluster.client import open_cluster
from exclave.cluster.endpoint import Access
from exclave.kit.formats.x509 import not_after, not_before
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.fake_machines import IDS, gone, seen
from peers.kubernetes import AVAILABLE
from support.mesh_cluster import MeshCluster, RunningApiServer, furnished
from support.needs import free_port
from support.replicas import replica, wait_leads

from .cluster_threads import evict

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

DAY = 86400
SHIFTED = (
    "import sys, time; real = time.time; time.time = lambda: real() + ({}); "
    "from exclave.cli.main import main; sys.exit(main())"
)


def run_on(server: Server, folder: Path, work: Callable[[MeshCluster], Awaitable[None]]) -> None:
    """A cluster with Linkerd's objects and no controller, whose account's token is in the folder."""

    async def run() -> None:
        api = RunningApiServer(Access((server.url,), server.ca), server.admin_token, folder, None)  # type: ignore[arg-type]
        async with furnished(api, controlled=False) as cluster:
            (folder / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
            await work(cluster)

    trio.run(run)


async def ask(cluster: MeshCluster, token_id: str, address: str) -> str:
    """Create a Member by a join token. Returns its name."""
    token = await cluster.join_token(token_id=token_id)
    name, key = token.member_names[0], ec.generate_private_key(ec.SECP256R1())
    body = member_object(
        NAMESPACE,
        name,
        nonce=f"nonce of {name}",
        machine_hash=f"{next(IDS):016x}",
        delivery_key=delivery_key_text(key),
        csr=make_csr(key, name),
        addresses=[address],
        facts={},
    )
    async with open_cluster(cluster.api.access, lambda: token.token) as joiner:
        await joiner.send(create(MEMBERS, NAMESPACE, body))
    return name


@pytest.mark.parametrize("offset", [DAY, -DAY], ids=["ahead", "behind"])
def test_a_controller_with_a_clock_that_is_a_day_wrong_signs_what_is_valid_now(
    server: Server, tmp_path: Path, offset: int
) -> None:
    async def work(cluster: MeshCluster) -> None:
        program = (sys.executable, "-c", SHIFTED.format(offset))
        token_id = "ahead" if offset > 0 else "behin"
        with replica(cluster.api.access, tmp_path, "shifted", port := free_port(), program):
            await wait_leads(port)
            place = (NAMESPACE, await ask(cluster, token_id, "10.77.0.240"))
            found = view_member(
                await seen(cluster, MEMBERS, place, lambda one: view_member(one).credential is not None)
            )
            assert found.certificate is not None
            leaf = x509.load_pem_x509_certificate(found.certificate.chain.encode())
            assert not_before(leaf) <= time.time() < not_after(leaf)
            assert abs(not_after(leaf) - DAY - time.time()) < 300, "the group's certificates live for a day"
            account = await cluster.find(SERVICE_ACCOUNTS, f"web.join.{token_id}-1", f"{NAMESPACE}-vms")
            assert account is not None, "the join token has an hour left"
            await evict(cluster, *place)
            await gone(cluster, MEMBERS, place)
        text = (tmp_path / "shifted.log").read_text()
        where = "ahead of" if offset > 0 else "behind"
        assert f" s {where} the API server's, which is used instead: set it right" in text

    run_on(server, tmp_path, work)


def test_a_controller_of_another_version_admits_nobody_and_the_right_one_goes_on(
    server: Server, tmp_path: Path
) -> None:
    """As in an upgrade: the admission policies are this version's already, and the other version still leads."""
    source = tmp_path / "source"
    shutil.copytree(Path(exclave.__file__).parent, source / "exclave", ignore=shutil.ignore_patterns("__pycache__"))
    policies = source / "exclave/api/definitions/admission.yaml"
    words = "a machine changes no metadata"
    assert words in policies.read_text()
    policies.write_text(policies.read_text().replace(words, "a machine changes no label"))

    async def work(cluster: MeshCluster) -> None:
        access = cluster.api.access
        with replica(access, tmp_path, "other", other_port := free_port(), source=source) as other:
            await wait_leads(other_port)
            place = (NAMESPACE, await ask(cluster, "upgra", "10.77.0.241"))
            waits = await seen(cluster, MEMBERS, place, lambda one: view_member(one).admitted is not None)
            admitted = view_member(waits).admitted
            assert admitted is not None
            assert (admitted.status, admitted.reason) == (False, "GuardMissing")
            with replica(access, tmp_path, "this", port := free_port()):
                other.terminate()
                await wait_leads(port)
                found = view_member(
                    await seen(cluster, MEMBERS, place, lambda one: view_member(one).credential is not None)
                )
                assert found.admitted is not None
                assert found.admitted.status
                assert found.certificate is not None
                await evict(cluster, *place)
                await gone(cluster, MEMBERS, place)

    run_on(server, tmp_path, work)
