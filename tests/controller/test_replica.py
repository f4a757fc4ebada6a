"""Two replicas as programs, over the sandbox's API server: one that is stopped is followed, and writes no more."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import trio

from exclave.admin.objects import CONTROLLER
from exclave.cluster.requests import LEASES, WORKLOAD_GROUPS, get, patch
from support.mesh_cluster import MeshCluster, open_mesh_cluster


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextmanager
def replica(cluster: MeshCluster, folder: Path, name: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "ca.pem").write_text(cluster.api.access.ca)
    command = [
        sys.executable, "-m", "exclave", "controller",
        "--server", cluster.api.access.servers[0],
        "--ca-file", str(folder / "ca.pem"), "--token-file", str(folder / "token"),
        "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(command, stderr=log)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGCONT)
        started.kill()
        started.wait()


async def leads(port: int) -> bool | None:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    except httpx.TransportError:
        return None
    return "exclave_controller_leads 1.0" in text


async def wait_leads(port: int) -> None:
    with trio.fail_after(60):
        while not await leads(port):  # noqa: ASYNC110  another process
            await trio.sleep(0.2)


async def wait_accepted(cluster: MeshCluster, networks: list[str], is_accepted: str) -> None:
    """Change the group, so that whoever leads has to say something about it, and wait until it has."""
    await cluster.admin.send(patch(WORKLOAD_GROUPS, "shop", "web", {"spec": {"networks": networks}}))
    with trio.fail_after(30):
        while True:
            group = await cluster.admin.send(get(WORKLOAD_GROUPS, "shop", "web"))
            found = {one["type"]: one["status"] for one in (group.get("status") or {}).get("conditions") or []}
            if found.get("Accepted") == is_accepted:
                return
            await trio.sleep(0.1)


async def test_a_leader_that_is_told_to_end_gives_its_lease_back(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        (tmp_path / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
        port = free_port()
        with replica(cluster, tmp_path, "only", port) as only:
            await wait_leads(port)
            only.terminate()
            assert await trio.to_thread.run_sync(only.wait) == 0
            lease = await cluster.admin.send(get(LEASES, "exclave", "exclave-controller"))
            assert not lease["spec"].get("holderIdentity")


async def test_a_paused_leader_is_followed_and_finds_that_it_leads_no_longer(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        (tmp_path / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
        ports = free_port(), free_port()
        with ExitStack() as stack:
            first = stack.enter_context(replica(cluster, tmp_path, "first", ports[0]))
            await wait_leads(ports[0])
            stack.enter_context(replica(cluster, tmp_path, "second", ports[1]))
            await wait_accepted(cluster, ["10.77.0.0/24"], "True")
            assert await leads(ports[1]) is not True
            os.kill(first.pid, signal.SIGSTOP)
            await wait_leads(ports[1])
            lease = await cluster.admin.send(get(LEASES, "exclave", "exclave-controller"))
            os.kill(first.pid, signal.SIGCONT)
            await wait_accepted(cluster, ["10.77.0.1/24"], "False")
            with trio.fail_after(20):
                while await leads(ports[0]):  # noqa: ASYNC110  another process
                    await trio.sleep(0.1)
            later = await cluster.admin.send(get(LEASES, "exclave", "exclave-controller"))
            assert later["spec"]["holderIdentity"] == lease["spec"]["holderIdentity"]
            assert later["spec"]["leaseTransitions"] == lease["spec"]["leaseTransitions"] == 1
        assert "controller: another one leads now" in (tmp_path / "first.log").read_text()
