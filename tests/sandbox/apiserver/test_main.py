"""The API server whole: in this process, and as the program that the demo starts."""

import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.apiserver.main import EPILOG, main
from support.mesh_cluster import RunningApiServer, running_apiserver
from support.store import config_map


def client_of(cluster: RunningApiServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=cluster.access.servers[0],
        verify=ssl.create_default_context(cadata=cluster.access.ca),
        headers={"Authorization": f"Bearer {cluster.admin_token}"},
        timeout=60,  # for fifty TLS handshakes at once on a busy machine
    )


async def test_it_serves_by_its_own_ca_and_writes_two_files(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path) as cluster, client_of(cluster) as client:
        assert (tmp_path / "ca.pem").read_text() == cluster.access.ca
        assert (tmp_path / "admin.token").read_text() == cluster.admin_token
        assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
        listed = (await client.get("/api/v1/namespaces")).json()
        names = [one["metadata"]["name"] for one in listed["items"]]
        assert names == ["default", "kube-node-lease", "kube-public", "kube-system"]
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(verify=ssl.create_default_context()) as stranger:
                await stranger.get(cluster.access.servers[0])


async def test_an_outage_ends_every_connection_and_no_object_is_lost(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path) as cluster, client_of(cluster) as client:
        made = (await client.post("/api/v1/namespaces/default/configmaps", json=config_map())).json()
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", "/api/v1/configmaps", params={"watch": "1"}, timeout=None) as watch:
                lines = watch.aiter_lines()
                assert '"ADDED"' in await lines.__anext__()
                await cluster.server.close()
                await lines.__anext__()
        with pytest.raises(httpx.ConnectError):
            await client.get("/readyz")
        await cluster.server.open()
        assert (await client.get("/api/v1/namespaces/default/configmaps/c")).json() == made


async def test_times_are_those_of_its_clock(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path, now=lambda: 1_700_000_000.0) as cluster, client_of(cluster) as client:
        answer = await client.post("/api/v1/namespaces/default/configmaps", json=config_map())
        assert answer.headers["date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
        assert answer.json()["metadata"]["creationTimestamp"] == "2023-11-14T22:13:20Z"


async def test_an_error_in_the_block_is_raised_without_a_group(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        async with running_apiserver(tmp_path):
            raise LookupError


@pytest.mark.slow
async def test_many_clients_at_once_are_served_and_watches_get_every_change(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path) as cluster, client_of(cluster) as client:
        names = {f"c-{number}" for number in range(100)}
        heard: set[str] = set()

        async def create(name: str) -> None:
            assert (
                await client.post("/api/v1/namespaces/default/configmaps", json=config_map(name))
            ).status_code == 201

        async with trio.open_nursery() as nursery:
            query = {"watch": "1", "resourceVersion": str(cluster.server.store.revision)}
            async with client.stream("GET", "/api/v1/configmaps", params=query) as watch:
                for name in names:
                    nursery.start_soon(create, name)
                async for line in watch.aiter_lines():
                    heard |= {name for name in names if f'"{name}"' in line}
                    if heard == names:
                        break


class Program:
    """The API server as a process; `line` is the next line of its output."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._rest = b""

    async def line(self) -> str:
        assert self.process.stdout is not None
        with trio.fail_after(30):
            while b"\n" not in self._rest:
                piece = await self.process.stdout.receive_some()
                assert piece, "it ended"
                self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()


@asynccontextmanager
async def program(directory: Path) -> AsyncIterator[Program]:
    command = [
        sys.executable,
        "-m",
        "exclave_sandbox.apiserver.main",
        "--listen",
        "127.0.0.1:0",
        "--directory",
        directory,
    ]
    command += ["--address-in-certificate", "10.9.8.7"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        yield Program(process)
    finally:
        process.kill()
        with shielded(60.0):
            await process.wait()


async def test_the_program_closes_opens_and_ends_by_signals(tmp_path: Path) -> None:
    async with program(tmp_path) as server:
        listening = await server.line()
        url = listening.removeprefix("listening on ")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        async with httpx.AsyncClient(base_url=url, verify=context) as client:
            assert (await client.get("/readyz")).text == "ok"
            server.process.send_signal(signal.SIGUSR1)
            assert await server.line() == "closed"
            with pytest.raises(httpx.ConnectError):
                await client.get("/readyz")
            server.process.send_signal(signal.SIGUSR2)
            assert await server.line() == listening
            assert (await client.get("/readyz")).text == "ok"
        port = int(url.rsplit(":", 1)[1])
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context)
        await stream.do_handshake()
        names = stream.getpeercert()["subjectAltName"]
        assert ("IP Address", "10.9.8.7") in names
        await trio.aclose_forcefully(stream)
        server.process.send_signal(signal.SIGTERM)
        with trio.fail_after(30):
            assert await server.process.wait() == 0


async def test_files_of_an_earlier_run_are_gone_before_it_listens(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("old")
    async with program(tmp_path) as server:
        await server.line()
        assert (tmp_path / "admin.token").read_text() != "old"


def test_a_port_in_use_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert main(["--listen", f"127.0.0.1:{port}", "--directory", str(tmp_path)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in capsys.readouterr().err


def test_the_help_lists_the_rules_that_are_not_enforced(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert EPILOG.strip() in capsys.readouterr().out
    assert "admission policies are kept and never run" in EPILOG
    assert "never pruned in silence" in EPILOG
