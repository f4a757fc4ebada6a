"""The destination controller as a program beside a real API server of the sandbox: it follows, answers, survives."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from exclave.api.requests import EXTERNAL_WORKLOADS, PODS, SERVICES, create, delete, patch
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.linkerd.destination import LookupServer
from exclave_sandbox.linkerd.destination_table import FOLLOWED, DestinationTable
from exclave_sandbox.stage import mesh
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .test_destination_table import VM, WEB, pod, service, workload

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "agent")}


def command(cluster: MeshCluster, token: Path) -> list[str]:
    access = ["--server", cluster.api.access.servers[0], "--ca-file", str(cluster.api.directory / "ca.pem")]
    words = [sys.executable, "-m", "exclave_sandbox.linkerd.destination", "--listen", "127.0.0.1:0"]
    return [*words, *access, "--token-file", str(token)]


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[tuple[MeshCluster, httpx.AsyncClient]]:
    """A cluster, and the program that follows it; a client that asks."""
    async with open_mesh_cluster(folder, controlled=False) as cluster:
        for request in mesh.application_requests():
            await cluster.admin.send(request)
        words = command(cluster, cluster.api.directory / "admin.token")
        started = await trio.lowlevel.open_process(words, stdout=subprocess.PIPE, env=ENVIRONMENT)
        assert started.stdout is not None
        try:
            place = (await started.stdout.receive_some()).decode().split()[-1]
            async with httpx.AsyncClient(base_url=f"http://{place}", trust_env=False) as client:
                await until(client, "/follows", 200)
                yield cluster, client
                started.send_signal(signal.SIGINT)
                assert await started.wait() == 130
        finally:
            if started.poll() is None:
                started.kill()
                with shielded(60.0):
                    await started.wait()


async def until(client: httpx.AsyncClient, target: str, status: int) -> dict[str, object]:
    """Ask until the answer has this status; its body."""
    with trio.fail_after(20):
        while (answer := await client.get(target)).status_code != status:
            await trio.lowlevel.checkpoint()
    body = answer.json()
    assert isinstance(body, dict)
    return body


def asked(address: str, port: int) -> str:
    return f"/endpoint?address={address}&port={port}"


READY = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]}}


async def put_workload(cluster: MeshCluster, *, ready: bool) -> None:
    kind = {"apiVersion": EXTERNAL_WORKLOADS.api_version, "kind": EXTERNAL_WORKLOADS.kind}
    made = {**workload(), **kind, "status": {}}
    await cluster.admin.send(create(EXTERNAL_WORKLOADS, mesh.NAMESPACE, made))
    if ready:
        await cluster.admin.send(patch(EXTERNAL_WORKLOADS, mesh.NAMESPACE, "web-1", READY, "status"))


@pytest.mark.slow
async def test_it_follows_machines_as_they_come_become_ready_and_go(tmp_path: Path) -> None:
    service_of_web = asked(mesh.GROUP_SERVICE, mesh.GROUP_PORT)
    async with following(tmp_path) as (cluster, client):
        answer = await until(client, service_of_web, 503)
        assert answer == {"message": "no endpoint of shop/web is ready"}
        await put_workload(cluster, ready=False)
        await until(client, asked(VM, 8080), 200)
        assert (await client.get(service_of_web)).status_code == 503
        await cluster.admin.send(patch(EXTERNAL_WORKLOADS, mesh.NAMESPACE, "web-1", READY, "status"))
        answer = await until(client, service_of_web, 200)
        assert (answer["address"], answer["identity"]) == (VM, "spiffe://cluster.local/ns/shop/sa/web")
        await cluster.admin.send(delete(EXTERNAL_WORKLOADS, mesh.NAMESPACE, "web-1"))
        await until(client, asked(VM, 8080), 404)


@pytest.mark.slow
async def test_while_the_api_server_is_away_it_answers_from_its_last_lists(tmp_path: Path) -> None:
    async with following(tmp_path) as (cluster, client):
        await put_workload(cluster, ready=True)
        await until(client, asked(VM, 8080), 200)
        await cluster.api.server.close()
        await until(client, "/follows", 503)
        assert (await client.get(asked(VM, 8080))).status_code == 200
        await cluster.api.server.open()
        await until(client, "/follows", 200)
        await cluster.admin.send(delete(EXTERNAL_WORKLOADS, mesh.NAMESPACE, "web-1"))
        await until(client, asked(VM, 8080), 404)


async def test_a_token_that_may_not_list_ends_it_with_the_reason(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        token = tmp_path / "token"
        token.write_text(await cluster.token_of(mesh.NAMESPACE, mesh.GROUP))
        done = await trio.run_process(command(cluster, token), check=False, capture_stderr=True, env=ENVIRONMENT)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "403" in line and "list" in line


def make_table(*pods: object) -> DestinationTable:
    table = DestinationTable("cluster.local")
    table.replace(SERVICES, (service("orders", WEB),))
    table.replace(EXTERNAL_WORKLOADS, ())
    table.replace(PODS, pods)  # type: ignore[arg-type]
    return table


def test_endpoints_of_a_service_alternate() -> None:
    other = pod()
    other["metadata"]["name"], other["status"]["podIP"] = "orders-2", "10.42.0.11"
    lookups = LookupServer(make_table(pod(), other))
    addresses = [lookups.answer(asked(WEB, 80))[1]["address"] for _ in range(4)]  # type: ignore[index]
    assert addresses == ["10.42.0.10", "10.42.0.11"] * 2


def test_before_the_first_lists_of_all_kinds_nothing_is_answered() -> None:
    table = DestinationTable("cluster.local")
    lookups = LookupServer(table)
    assert lookups.answer(asked(WEB, 80))[0] == 500
    assert lookups.answer("/follows")[0] == 503
    for resource in FOLLOWED:
        assert lookups.answer(asked(WEB, 80))[0] == 500
        table.replace(resource, ())
    assert lookups.answer(asked(WEB, 80))[0] == 404
    table.replace(SERVICES, (service("orders", WEB),))
    assert lookups.answer(asked(WEB, 80))[0] == 503


@pytest.mark.parametrize("target", ["/", "/endpoint", "/endpoint?address=10.0.0.1", "/endpoint?address=x&port=http"])
def test_a_wrong_request_is_answered_with_the_right_one(target: str) -> None:
    assert LookupServer(make_table()).answer(target) == (
        400,
        {"message": "GET /endpoint?address=IP&port=PORT was expected"},
    )
