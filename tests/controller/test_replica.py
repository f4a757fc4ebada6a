"""Two replicas as programs, over the sandbox's API server: one that is stopped is followed, and writes no more."""

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.member import member_object, view_member
from exclave.api.names import CONTROLLER
from exclave.api.requests import LEASES, MEMBERS, WORKLOAD_GROUPS, create, get, patch
from exclave.cluster.endpoint import Access
from exclave_sandbox.pki import make_anchor
from support.figures import add_figure
from support.https_server import Asked, Reply
from support.interposer import Interposer, headers_of, honest, open_interposer
from support.mesh_cluster import MeshCluster, open_mesh_cluster
from support.needs import free_port
from support.replicas import leads, replica, wait_leads

pytestmark = pytest.mark.slow


async def wait_accepted(cluster: MeshCluster, networks: list[str], is_accepted: str) -> None:
    """Change the group, so that the leader writes its status, and wait until it has."""
    await cluster.admin.send(patch(WORKLOAD_GROUPS, "shop", "web", {"spec": {"networks": networks}}))
    with trio.fail_after(30):
        while True:
            group = await cluster.admin.send(get(WORKLOAD_GROUPS, "shop", "web"))
            found = {one["type"]: one["status"] for one in (group.get("status") or {}).get("conditions") or []}
            if found.get("Accepted") == is_accepted:
                return
            await trio.sleep(0.1)


async def test_a_leader_that_gets_a_signal_releases_its_lease(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        (tmp_path / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
        port = free_port()
        with replica(cluster.api.access, tmp_path, "only", port) as only:
            await wait_leads(port)
            only.terminate()
            assert await trio.to_thread.run_sync(only.wait) == 0
            lease = await cluster.admin.send(get(LEASES, "exclave", "exclave-controller"))
            assert not lease["spec"].get("holderIdentity")


def is_work(asked: Asked) -> bool:
    """A write of a replica, except those of its election's Lease."""
    return asked.method != "GET" and not asked.target.endswith("/exclave-controller")


def writes(between: Interposer) -> list[str]:
    assert between.served is not None
    return [f"{asked.method} {asked.target}" for asked in between.served.asked if is_work(asked)]


@dataclass
class Withheld:
    """Writes are executed, and their answers arrive after `released`, so that whoever writes waits.

    `complete` is set when a write of each of `members` waits: a process that is stopped then has checked no fence
    for a write that it has not sent.
    """

    members: set[str]
    complete: trio.Event = field(default_factory=trio.Event)
    released: trio.Event = field(default_factory=trio.Event)

    async def treat(self, between: Interposer, asked: Asked, reply: Reply) -> None:
        """The Treat of an Interposer."""
        if not is_work(asked):
            await honest(between, asked, reply)
            return
        async with between.ask(asked) as answer:
            content = await answer.aread()
        self.members = {name for name in self.members if name not in asked.target}
        if not self.members:
            self.complete.set()
        await self.released.wait()
        await reply.start(answer.status_code, **headers_of(answer))
        await reply.piece(content)


async def new_member(cluster: MeshCluster, number: int) -> None:
    """A machine asks to join, which causes many writes of the controller."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"web-k7q2x-{number}"
    body = member_object(
        "shop",
        name,
        nonce=name,
        machine_hash=f"{number:016x}",
        delivery_key=delivery_key_text(key),
        csr=make_csr(key, name),
        addresses=[f"10.77.0.{number}"],
        facts={},
    )
    await cluster.admin.send(create(MEMBERS, "shop", body))


async def wait_signed(cluster: MeshCluster, number: int) -> None:
    with trio.fail_after(30):
        while True:
            found = await cluster.admin.send(get(MEMBERS, "shop", f"web-k7q2x-{number}"))
            if view_member(found).certificate is not None:
                return
            await trio.sleep(0.1)


async def test_a_paused_leader_is_followed_and_finds_that_it_leads_no_longer(tmp_path: Path) -> None:
    anchor = make_anchor("an API server's CA")
    async with (
        open_mesh_cluster(tmp_path, controlled=False) as cluster,
        open_interposer(cluster.api.access.servers[0], cluster.api.access.ca, anchor) as between,
    ):
        (tmp_path / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
        (tmp_path / "first").mkdir()
        (tmp_path / "first/token").write_text((tmp_path / "token").read_text())
        ports = free_port(), free_port()
        with ExitStack() as stack:
            through = Access((between.url,), anchor.pem)
            first = stack.enter_context(replica(through, tmp_path / "first", "first", ports[0]))
            await wait_leads(ports[0])
            stack.enter_context(replica(cluster.api.access, tmp_path, "second", ports[1]))
            await wait_accepted(cluster, ["10.77.0.0/24"], "True")
            await new_member(cluster, 1)
            await wait_signed(cluster, 1)
            assert await leads(ports[1]) is not True
            withheld = Withheld({f"web-k7q2x-{number}" for number in range(2, 6)})
            between.treat = withheld.treat
            for number in range(2, 6):
                await new_member(cluster, number)
            with trio.fail_after(30):
                await withheld.complete.wait()
            os.kill(first.pid, signal.SIGSTOP)
            stopped, written = trio.current_time(), writes(between)
            assert written, "it did all of this while it led"
            await new_member(cluster, 6)
            for number in range(2, 7):
                await wait_signed(cluster, number)
            add_figure(
                f"seconds until a second controller signs what a paused one left: {trio.current_time() - stopped:.1f}"
            )
            lease = await cluster.admin.send(get(LEASES, "exclave", "exclave-controller"))
            under_way = writes(between)
            between.treat = honest
            withheld.released.set()
            os.kill(first.pid, signal.SIGCONT)
            await wait_accepted(cluster, ["10.77.0.1/24"], "False")
            with trio.fail_after(20):
                while await leads(ports[0]):  # noqa: ASYNC110  another process
                    await trio.sleep(0.1)
            later = await cluster.admin.send(get(LEASES, "exclave", "exclave-controller"))
            assert later["spec"]["holderIdentity"] == lease["spec"]["holderIdentity"]
            assert later["spec"]["leaseTransitions"] == lease["spec"]["leaseTransitions"] == 1
            assert writes(between) == under_way, "it writes nothing more, though it had six members in hand"
        assert "controller: another one leads now" in (tmp_path / "first/first.log").read_text()
