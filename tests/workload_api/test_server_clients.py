"""Local users who flood the socket: they get no descriptor, no memory and no log of the agent. Needs root."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import pytest
import trio
import trio.testing

from exclave.identity.svid import Svid
from exclave.kit.tasks.latest import Latest
from exclave.workload_api.server import MOST_CLIENTS, MOST_OTHERS, access_list, open_workload_api
from support.figures import add_figure
from support.mesh import mesh

from .messages import decode_response
from .test_server import bundle, first

PROXY, OTHER = os.getuid(), 1000
FLOOD = 1000

CONNECT = """
import json, socket, sys
streams, outcomes = [], {}
for _ in range(int(sys.argv[2])):
    stream = socket.socket(socket.AF_UNIX)
    try:
        stream.connect(sys.argv[1])
        outcome = "connected"
        streams.append(stream)
    except OSError as problem:
        outcome = type(problem).__name__
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
closed = 0
for stream in streams:
    try:
        while stream.recv(65536):
            pass
    except ConnectionError:
        pass
    closed += 1
print(json.dumps({**outcomes, "closed": closed}), flush=True)
sys.stdin.read()
"""
"""Connects so many times, then waits for the end of each connection: path, connections. Prints the outcomes."""


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # other users may look for the socket
        yield Path(folder) / "workload.sock"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def flood(path: Path, uid: int) -> "tuple[subprocess.Popen[bytes], dict[str, int]]":
    """Connect as this user, a thousand times; returns the process, and the outcomes."""
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    command = [*user, os.path.realpath(sys.executable), "-I", "-S", "-c", CONNECT, str(path), str(FLOOD)]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdout is not None
    line = await trio.to_thread.run_sync(running.stdout.readline)
    return running, json.loads(line)


def end(running: "subprocess.Popen[bytes]") -> None:
    running.communicate()


async def test_another_user_cannot_connect(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    svid = mesh().svid(time.time())
    async with open_workload_api(path, Latest[Svid | None](svid), bundle, frozenset({PROXY})) as api:
        before = open_descriptors()
        running, outcomes = await flood(api.path, OTHER)
        add_figure(f"{FLOOD} connections of another user to workload.sock: {outcomes}")
        assert outcomes == {"PermissionError": FLOOD, "closed": 0}
        assert open_descriptors() <= before + 3  # the pipes of the process
        assert decode_response(await first(api.path))[0].key == svid.key
        end(running)
    assert caplog.messages == []


async def test_without_access_lists_another_user_is_refused_when_it_connects(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    svid = mesh().svid(time.time())
    most = 0

    async with open_workload_api(path, Latest[Svid | None](svid), bundle, frozenset({PROXY})) as api:
        before = open_descriptors()

        async def count() -> None:
            nonlocal most
            while True:
                most = max(most, open_descriptors())
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            running, outcomes = await flood(api.path, OTHER)
            nursery.cancel_scope.cancel()
        assert outcomes == {"connected": FLOOD, "closed": FLOOD}
        assert most <= before + MOST_OTHERS + 8  # pipes of the process, and a connection that is being refused
        assert decode_response(await first(api.path))[0].key == svid.key
        end(running)
    refusals = [line for line in caplog.messages if f"of user {OTHER} was refused" in line]
    assert 1 <= len(refusals) <= 3  # one a minute


async def test_the_proxys_user_has_a_limit_too(path: Path) -> None:
    svid = Latest[Svid | None](mesh().svid(time.time()))
    async with open_workload_api(path, svid, bundle, frozenset({PROXY})) as api:
        streams = [await trio.open_unix_socket(str(api.path)) for _ in range(MOST_CLIENTS)]
        for stream in streams:
            assert await stream.receive_some()  # the settings of HTTP/2
        async with await trio.open_unix_socket(str(api.path)) as refused:
            assert await refused.receive_some() == b""
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(60):
            while True:
                async with await trio.open_unix_socket(str(api.path)) as stream:
                    if await stream.receive_some():
                        break


async def test_a_client_that_sends_pings_and_reads_nothing_is_not_read_either(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Each ping has an answer, which would wait in the agent's memory."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.ping(b"\0" * 8)
    content, sent = client.data_to_send(), 0
    ping = content[-17:]
    svid = Latest[Svid | None](mesh().svid(time.time()))
    async with open_workload_api(path, svid, bundle, frozenset({PROXY})) as api:
        async with await trio.open_unix_socket(str(api.path)) as stream:
            await stream.send_all(content)
            with trio.move_on_after(600):  # virtual seconds, which pass once nobody can do anything
                for _ in range(2000):
                    await stream.send_all(ping * 1000)
                    sent += len(ping) * 1000
    add_figure(f"pings that a client could send without reading an answer: {sent / 1e6:.1f} MB of 34 MB")
    assert sent < 4e6  # what the kernel's two buffers hold


def test_the_access_list_names_the_owner_and_the_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.setxattr(file, "system.posix_acl_access", access_list(frozenset({64999, 7})))
    listed = subprocess.run(["stat", "--format=%a", file], capture_output=True, text=True, check=True).stdout
    assert listed == "660\n"  # the group's bits show the mask
    assert os.getxattr(file, "system.posix_acl_access") == access_list(frozenset({7, 64999}))
