"""The marks of admission, with the whole controller: an upgrade, a new key, a condition that somebody else wrote."""

import time
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.member import ADMITTED, Condition, make_condition, view_member
from exclave.api.names import MARK_SECRET
from exclave.api.requests import MEMBERS, SECRETS, SERVICE_ACCOUNTS, Object, create, delete, patch
from exclave_sandbox.stage.mesh import NAMESPACE
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .snapshots import make_member
from .test_run import joined, wait

pytestmark = pytest.mark.slow


def is_certified(found: Object | None, csr: str) -> bool:
    certificate = view_member(found).certificate if found else None
    return certificate is not None and certificate.csr_sha256 == csr_sha256(csr)


async def ask(cluster: MeshCluster, member: str) -> str:
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), member)
    await cluster.admin.send(patch(MEMBERS, NAMESPACE, member, {"spec": {"csr": csr}}))
    return csr


async def test_members_of_a_version_without_marks_are_certified_and_marked(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        async with cluster.controlled():
            name = (await joined(cluster, tmp_path / "vm")).member
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"status": {"mark": None}}, "status"))
        await cluster.admin.send(delete(SECRETS, "exclave", MARK_SECRET))
        await until_next_second()  # the Secret is younger then, by the server's whole seconds
        async with cluster.controlled():
            csr = await ask(cluster, name)
            found = await wait(cluster, MEMBERS, name, lambda found: is_certified(found, csr))
            assert len(view_member(found).mark) == 64


async def until_next_second() -> None:
    now = time.time()
    await trio.sleep(1.01 - now % 1.0)


async def test_a_younger_member_without_its_mark_is_decided_anew(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        name = (await joined(cluster, tmp_path / "vm")).member
        first = view_member(await wait(cluster, MEMBERS, name, lambda found: view_member(found).mark)).mark
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"status": {"mark": "0" * 64}}, "status"))
        await wait(cluster, MEMBERS, name, lambda found: view_member(found).mark == first)


@pytest.mark.parametrize("name", ["web-k7q2x-1", "web-k7q2x-01"])
async def test_a_condition_that_somebody_else_wrote_admits_nobody(tmp_path: Path, name: str) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        body = make_member(addresses=["192.0.2.7"], finalizer=False)
        await cluster.admin.send(create(MEMBERS, NAMESPACE, {**body, "metadata": {"name": name}}))
        forged = make_condition(Condition(ADMITTED, True, "Admitted", "a member of group web"), time.time())
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"status": {"conditions": [forged]}}, "status"))
        async with cluster.controlled():
            found = view_member(await wait(cluster, MEMBERS, name, lambda found: found and is_refused(found)))
            assert (found.certificate, found.credential, found.mark) == (None, None, "")
            assert await cluster.find(SERVICE_ACCOUNTS, "web.vm.k7q2x-1", f"{NAMESPACE}-vms") is None


def is_refused(found: Object) -> bool:
    admitted = view_member(found).admitted
    return admitted is not None and not admitted.status


async def test_a_damaged_key_stops_no_member_and_admits_none(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        async with cluster.controlled():
            name = (await joined(cluster, tmp_path / "vm")).member
        await cluster.admin.send(patch(SECRETS, "exclave", MARK_SECRET, {"data": {"key": "c2hvcnQ="}}))
        async with cluster.controlled():
            await ask(cluster, name)

            def is_told(found: Object | None) -> bool:
                certified = view_member(found).certified if found else None
                return certified is not None and certified.reason == "NotReady" and MARK_SECRET in certified.message

            found = view_member(await wait(cluster, MEMBERS, name, is_told))
            assert found.admitted is not None and found.admitted.status
            await cluster.admin.send(delete(SECRETS, "exclave", MARK_SECRET))
            await wait(cluster, MEMBERS, name, lambda found: view_member(found).certified.status)
