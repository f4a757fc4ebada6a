"""The stand-in as a program: how it greets, what it refuses to start with, and how it ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from exclave.identity.svid import Svid
from exclave.kit.tasks.latest import Latest
from exclave.proxy.environment import proxy_environment
from exclave.proxy.probe import leaf_not_after, open_probe
from exclave.proxy.process.binary import read_version
from exclave.workload_api.server import open_workload_api
from exclave_sandbox.stage.programs import StageProgram, open_program
from exclave_sandbox.standin.stream import connect
from support.mesh import ADDRESS, make_settings, mesh
from support.network_namespace import in_network_namespace

TOP = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "exclave_sandbox.standin.main"]
PLACE = "169.254.77.1"
NAME = "web.shop.svc.cluster.local"
CLIENT, PORT = "10.77.0.30", 9000
RULES = f"""
table ip t {{
  chain o {{ type nat hook output priority -100; ip saddr {CLIENT} tcp dport {PORT} dnat to {PLACE}:4143; }};
}};
"""

here = in_network_namespace(f"{PLACE}/32", f"{ADDRESS}/32", f"{CLIENT}/32")


def run(**environment: str) -> "subprocess.CompletedProcess[str]":
    environment["PYTHONPATH"] = str(TOP / "agent")
    return subprocess.run(COMMAND, env=environment, capture_output=True, text=True)


def test_it_prints_its_version_and_ends_without_a_configuration_as_linkerd2_proxy() -> None:
    done = run()
    assert done.returncode == 64
    assert read_version(done.stdout) == "0.0.0-standin"
    assert done.stderr == "Invalid configuration: LINKERD2_PROXY_IDENTITY_SERVER_ID must be set\n"


def environment_of(socket: Path, drain: float) -> dict[str, str]:
    settings = make_settings(mesh().anchor.pem)
    return proxy_environment(settings, "web-1", (ADDRESS,), "a", socket, "info", drain=drain, families=(4,))


@asynccontextmanager
async def running(folder: Path, drain: float = 5.0) -> AsyncIterator[tuple[StageProgram, Latest[Svid | None]]]:
    """The stand-in with our environment, and the Workload API that certifies it."""
    svid = Latest[Svid | None](None)
    async with open_workload_api(folder / "w.sock", svid, lambda: (), frozenset({os.getuid()})) as api:
        environment = {"PYTHONPATH": str(TOP / "agent"), **environment_of(api.path, drain)}
        log = folder / "proxy.log"
        async with open_program(COMMAND, log, environment=environment, in_machine=False) as started:
            yield started, svid


async def until_ready(expires: float) -> None:
    """Wait until it serves a certificate that ends then."""
    async with open_probe(PLACE, 4191, NAME) as probe:
        with trio.fail_after(20):
            while (result := await probe.query(with_metrics=True)) is None or result.expires != expires:
                await trio.lowlevel.checkpoint()


@here
async def test_it_serves_once_certified_and_loads_every_new_certificate() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder)) as (_, svid):
            async with open_probe(PLACE, 4191, NAME) as probe:
                with trio.fail_after(20):
                    while (result := await probe.query(with_metrics=True)) is None:
                        await trio.lowlevel.checkpoint()
            assert (result.is_ready, result.expires) == (False, None)
            with pytest.raises(OSError, match="connect"):
                await connect((PLACE, 4143))
            for _ in range(3):
                newest = mesh().svid(time.time())
                svid.set(newest)
                await until_ready(leaf_not_after(newest))
            await (await connect((PLACE, 4143))).aclose()


async def echo(stream: trio.SocketStream) -> None:
    """The application: it says what it hears."""
    async for piece in stream:
        await stream.send_all(piece)


@asynccontextmanager
async def talking(drain: float) -> AsyncIterator[tuple[StageProgram, trio.SocketStream]]:
    """The stand-in, and a connection through it on which words come back."""
    subprocess.run(["nft", RULES], check=True)
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), drain) as (started, svid), trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_tcp, echo, PORT, host=ADDRESS))
            newest = mesh().svid(time.time())
            svid.set(newest)
            await until_ready(leaf_not_after(newest))
            async with await trio.open_tcp_stream(ADDRESS, PORT, local_address=CLIENT) as stream:
                assert await exchange(stream, b"\x00 before") == b"\x00 before"
                yield started, stream
            nursery.cancel_scope.cancel()


async def exchange(stream: trio.SocketStream, words: bytes) -> bytes:
    await stream.send_all(words)
    return bytes(await stream.receive_some())


@here
async def test_at_sigterm_it_accepts_no_new_connection_and_waits_for_open_ones() -> None:
    async with talking(drain=60.0) as (started, stream):
        started.send(signal.SIGTERM)
        with pytest.raises(OSError, match="all attempts to connect"):
            while True:  # until its listener is closed
                await (await connect((PLACE, 4143))).aclose()
        assert await exchange(stream, b"after") == b"after"
        assert started.started.poll() is None
        await stream.aclose()
        assert await started.wait() == 0


@here
async def test_open_connections_are_ended_after_the_grace_period() -> None:
    async with talking(drain=0.3) as (started, stream):
        started.send(signal.SIGTERM)
        assert await started.wait() == 0
        assert await receive_end(stream) == b""


async def receive_end(stream: trio.SocketStream) -> bytes:
    """What comes before the end, whichever way it ends."""
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""
