"""Odd objects of every kind that the controller reads, and floods, beside machines that join. On real API servers.

The controller, and whoever stores the objects, are programs of their own, as in life. `EXCLAVE_ODD` is the number of
odd objects, and `EXCLAVE_ODD_SEED` draws others.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families

from exclave.admin.objects import group_objects
from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.member import member_object
from exclave.api.names import CONTROLLER
from exclave.api.requests import CONFIG_MAPS, MEMBERS, NAMESPACES, Object, create, path_of
from exclave.cluster.endpoint import Access
from peers import flooding, odd_objects
from peers.conftest import Server, run_kubernetes
from peers.fake_machines import IDS, ask_to_join
from peers.kubernetes import AVAILABLE
from support.figures import add_figure
from support.mesh_cluster import MeshCluster, RunningApiServer, furnished
from support.needs import free_port
from support.replicas import replica, wait_leads

from .odd_objects import HONEST, NEIGHBOUR, TENANT, Drawing

COUNT, SEED = int(os.environ.get("EXCLAVE_ODD", "250")), int(os.environ.get("EXCLAVE_ODD_SEED", "1"))
FLOOD = 200
MOST_STEPS = 2 * FLOOD
"""Of the controller, for anybody, while a machine joins beside a flood. Each Member needs ten, so without turns the
machine would wait for those of the whole flood, five times as many.
"""


@dataclass(frozen=True)
class Town:
    """A server, an administrator's client, and the controller: its process, the port of its metrics, its log."""

    server: Server
    cluster: MeshCluster
    folder: Path
    process: psutil.Process
    port: int

    async def steps(self) -> int:
        """The steps that the controller has made."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name == "exclave_controller_steps_total"))

    def processor(self) -> float:
        """Seconds of a processor that the controller has used."""
        return sum(self.process.cpu_times()[:2])

    async def join(self, number: int) -> tuple[float, int, float]:
        """An honest machine joins. Seconds, steps of the controller meanwhile, and seconds of one bare request."""
        began = time.monotonic()
        bare = {"metadata": {"name": f"bare-{number}"}, "data": {}}
        await self.cluster.admin.send(create(CONFIG_MAPS, "default", bare))
        peer = time.monotonic() - began
        token = await self.cluster.join_token(token_id=f"h{number:04d}", namespace=HONEST, group="wide")
        key, before = ec.generate_private_key(ec.SECP256R1()), await self.steps()
        began = time.monotonic()
        view = await ask_to_join(self.cluster, token, f"10.78.{100 + number // 200}.{1 + number % 200}", key)
        took = time.monotonic() - began
        assert view.admitted is not None
        assert view.admitted.status, f"the machine that joined as number {number} was refused: {view.admitted}"
        return took, await self.steps() - before, peer

    @asynccontextmanager
    async def open_program(self, module: str, *arguments: str, given: str) -> AsyncIterator["trio.Process"]:
        """A program that writes to the server. `given` is its standard input."""
        command = [sys.executable, "-m", module, self.server.url, str(self.folder / "ca.pem"), *arguments]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        await process.stdin.send_all(f"{given}\n".encode())
        try:
            yield process
        finally:
            process.kill()

    def check(self) -> None:
        """No part of the controller has been started again."""
        assert self.process.is_running()
        log = (self.folder / "controller.log").read_text()
        assert "starts again" not in log, [line for line in log.splitlines() if "starts again" in line]
        assert "Traceback" not in log
        bugs = [line for line in log.splitlines() if "tried again" in line and ".py:" in line]
        assert not bugs, "a part of our own code has failed"


@asynccontextmanager
async def open_town(release: str, folder: Path) -> AsyncIterator[Town]:
    """A server of its own, with groups in two namespaces, and a controller."""
    (folder / "server").mkdir()
    with run_kubernetes(release, folder / "server") as server:
        access = Access((server.url,), server.ca)
        api = RunningApiServer(access, server.admin_token, folder, None)  # type: ignore[arg-type]
        async with furnished(api, controlled=False) as cluster:
            for namespace, name, network in (
                (HONEST, "wide", "10.78.0.0/16"), (NEIGHBOUR, "web", "10.79.0.0/16"), (NEIGHBOUR, "wide", "fd00::/8"),
            ):  # fmt: skip
                await cluster.put(group_objects(namespace, name, {"networks": [network]}, "exclave"))
            await cluster.admin.send(create(NAMESPACES, None, {"metadata": {"name": TENANT}}))
            (folder / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
            with replica(access, folder, "controller", port := free_port()) as started:
                await wait_leads(port)
                town = Town(server, cluster, folder, psutil.Process(started.pid), port)
                await town.join(999)  # it reads and publishes everything first
                yield town


async def answers_of(process: "trio.Process") -> Counter[str]:
    """The answers that a program has got, when it has ended."""
    assert process.stdout is not None
    return Counter(json.loads(b"".join([piece async for piece in process.stdout])))


def test_a_seed_draws_the_same_attempts_and_every_kind() -> None:
    drawn = list(Drawing(SEED).attempts(COUNT))
    keyless = [(kind, method, path) for kind, method, path, _, _ in drawn]
    assert keyless == [(kind, method, path) for kind, method, path, _, _ in Drawing(SEED).attempts(COUNT)]
    assert {kind for kind, _, _ in keyless} == {
        "Member", "WorkloadGroup", "ConfigMap", "Lease", "ExternalWorkload", "Secret",
    }  # fmt: skip
    assert {method for _, method, _ in keyless} == {"POST", "PATCH", "DELETE"}


@pytest.mark.parametrize("release", AVAILABLE)
@pytest.mark.timeout(900)
async def test_odd_objects_stop_no_part_of_the_controller_and_no_join(release: str, tmp_path: Path) -> None:
    joins: list[tuple[float, int, float]] = []
    async with open_town(release, tmp_path) as town:
        written, answers = trio.Event(), Counter[str]()
        arguments = (odd_objects.__name__, str(SEED), str(COUNT))

        async def write() -> None:
            async with town.open_program(*arguments, given=town.server.admin_token) as writer:
                answers.update(await answers_of(writer))
            written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while not written.is_set():
                joins.append(await town.join(len(joins)))
        for _ in range(3):
            joins.append(await town.join(len(joins)))
        town.check()
        memory = town.process.memory_info().rss / 2**20
    assert sum(answers.values()) == COUNT
    taken = sum(number for answer, number in answers.items() if answer.endswith((" 200", " 201", " 202")))
    assert taken > COUNT / 2, f"most are as odd as the schema permits: {answers}"
    seconds, between, bare = zip(*joins, strict=True)
    add_figure(
        f"{release}: {len(joins)} joins beside {COUNT} odd objects (seed {SEED}, {taken} stored): "
        f"{max(seconds):.1f} s at most, {median(seconds):.1f} s the median, {median(bare):.2f} s one bare request; "
        f"{max(between)} steps of the controller at most; its memory: {memory:.0f} MB"
    )


def flood(key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], *, is_one_machine: bool) -> list[Object]:
    """The Members of a stolen join token."""
    machine = next(IDS)
    return [
        member_object(
            NEIGHBOUR, name, nonce="n", machine_hash=f"{machine if is_one_machine else next(IDS):016x}",
            delivery_key=delivery_key_text(key), csr=make_csr(key, name), facts={},
            addresses=["10.79.0.1" if is_one_machine else f"10.79.{1 + number // 200}.{1 + number % 200}"],
        )
        for number, name in enumerate(names)
    ]  # fmt: skip


@pytest.mark.parametrize("release", AVAILABLE)
async def test_a_token_200_members_at_once_delay_no_join_elsewhere(release: str, tmp_path: Path) -> None:
    """The flood comes from one token; the honest machines are of another group in another namespace."""
    key, joins = ec.generate_private_key(ec.SECP256R1()), 0
    async with open_town(release, tmp_path) as town:
        alone, _, _ = await town.join(joins)
        for ident, is_one_machine in (("fffff", False), ("ggggg", True)):
            token = await town.cluster.join_token(token_id=ident, uses=FLOOD, namespace=NEIGHBOUR, group="web")
            bodies = flood(key, token.member_names, is_one_machine=is_one_machine)
            given = {"token": token.token, "members": path_of(MEMBERS, NEIGHBOUR), "bodies": bodies}
            found: list[tuple[float, int, float]] = []
            before, used, began = await town.steps(), town.processor(), time.monotonic()
            async with town.open_program(flooding.__name__, "0", given=json.dumps(given)) as thief:
                while thief.poll() is None or len(found) < 3:
                    joins += 1
                    found.append(await town.join(joins))
                answers = await answers_of(thief)
            assert answers == {"201": FLOOD}
            seconds, between, bare = zip(*found, strict=True)
            what = "one machine" if is_one_machine else "as many machines"
            add_figure(
                f"{release}: {len(found)} joins beside {FLOOD} Members of one token, of {what}: "
                f"{max(seconds):.1f} s at most, alone {alone:.1f} s, one bare request {median(bare):.2f} s; "
                f"{max(between)} steps of the controller of {await town.steps() - before}, which used "
                f"{town.processor() - used:.1f} s of a processor in {time.monotonic() - began:.1f} s"
            )
            assert max(between) < MOST_STEPS, "the honest machine waited for the flood"
        town.check()
