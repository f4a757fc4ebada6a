"""The socket with a client that we did not write: grpcio, in a thread. Only the user of the proxy is served."""

import contextlib
import os
import random
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import h2.connection
import pytest
import trio

from exclave.errors import Fault, HostError
from exclave.identity.svid import Svid
from exclave.kit.formats.x509 import der_of
from exclave.kit.tasks.latest import Latest
from exclave.workload_api.connection import RpcStatus, StatusCode
from exclave.workload_api.server import Peer, check_peer, open_workload_api, peer_of
from support.faults import failing_once
from support.mesh import mesh

from .messages import decode_response

PROXY = 64999


def test_it_is_the_process_that_connected_not_the_one_that_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        child = os.fork()
        if child == 0:  # the process that connects, and stays until it was looked at
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.recv(1)
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            assert peer_of(connection) == Peer(child, os.getuid(), os.getgid())
        os.waitpid(child, 0)


def test_another_user_cannot_lie_about_itself(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours).uid == os.getuid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0exclave-peer-%d" % os.getpid())
        listener.listen()
        child = os.fork()
        if child == 0:
            os.setgid(PROXY)
            os.setuid(PROXY)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(b"\0exclave-peer-%d" % os.getppid())
                client.recv(1)
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            assert peer_of(connection) == Peer(child, PROXY, PROXY)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("uid", "allowed", "refusal"),
    [
        pytest.param(PROXY, {PROXY}, None, id="the proxy gets the key"),
        pytest.param(PROXY, {PROXY, 1000}, None, id="one of several users"),
        pytest.param(
            0,
            {PROXY},
            RpcStatus(StatusCode.PERMISSION_DENIED, "user 0 is not the proxy's, and only the proxy is served"),
            id="not even root",
        ),
        pytest.param(
            1000,
            set(),
            RpcStatus(StatusCode.PERMISSION_DENIED, "user 1000 is not the proxy's, and only the proxy is served"),
            id="no user if none is allowed",
        ),
    ],
)
def test_judgement(uid: int, allowed: set[int], refusal: RpcStatus | None) -> None:
    assert check_peer(Peer(77, uid, PROXY), frozenset(allowed)) == refusal


METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
SECURE = (("workload.spiffe.io", "true"),)
ME = frozenset({os.getuid()})
ALONE = (("grpc.use_local_subchannel_pool", 1),)
"""Else a channel shares the connection of another one to the same place, and its failures."""


def bundle() -> tuple[bytes, ...]:
    return (der_of(mesh().anchor.certificate),)


def fetch(path: Path, metadata: tuple[tuple[str, str], ...] = SECURE, method: str = METHOD) -> Iterator[bytes]:
    with grpc.insecure_channel(f"unix:{path}", options=ALONE) as channel:
        yield from channel.unary_stream(method)(b"", metadata=metadata, timeout=30)


async def first(path: Path, **options: object) -> bytes:
    return await trio.to_thread.run_sync(lambda: next(iter(fetch(path, **options))))  # type: ignore[arg-type]


async def test_grpcio_gets_the_certificate_key_and_bundle(tmp_path: Path) -> None:
    svid = mesh().svid(time.time())
    async with open_workload_api(tmp_path / "w.sock", Latest[Svid | None](svid), bundle, ME) as api:
        (found,) = decode_response(await first(api.path))
    assert found.spiffe_id == svid.spiffe_id
    assert found.certificates == b"".join(svid.chain)
    assert found.key == svid.key
    assert found.bundle == b"".join(bundle())


async def test_every_rotation_is_pushed_to_every_client(tmp_path: Path) -> None:
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    seen: dict[str, list[bytes]] = {"one": [], "two": []}
    got = Latest(0)

    async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api, trio.open_nursery() as nursery:

        async def follow(name: str) -> None:
            messages = fetch(api.path)
            for _ in range(3):
                message = await trio.to_thread.run_sync(lambda: next(messages))
                seen[name].append(decode_response(message)[0].key)
                got.set(got.value + 1)
            await trio.to_thread.run_sync(messages.close)  # type: ignore[attr-defined]

        nursery.start_soon(follow, "one")
        nursery.start_soon(follow, "two")
        wanted = [latest.value]
        for count in (1, 2, 3):
            await got.wait_for(lambda keys, count=count: keys >= 2 * count)  # type: ignore[misc]
            if count < 3:
                latest.set(mesh().svid(time.time()))
                wanted.append(latest.value)
    keys = [svid.key for svid in wanted if svid is not None]
    assert seen == {"one": keys, "two": keys}


async def test_a_client_that_comes_before_there_is_a_certificate_waits_for_it(tmp_path: Path) -> None:
    latest: Latest[Svid | None] = Latest(None)
    svid = mesh().svid(time.time())
    got: list[bytes] = []
    async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api, trio.open_nursery() as nursery:

        async def ask() -> None:
            got.append(await first(api.path))

        nursery.start_soon(ask)
        await api.streams.wait_for(lambda streams: streams == 1)
        assert not got
        latest.set(svid)
    assert decode_response(got[0])[0].key == svid.key


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        pytest.param(
            {"metadata": ()},
            grpc.StatusCode.INVALID_ARGUMENT,
            "security header missing from request: workload.spiffe.io: true",
            id="without the security header",
        ),
        pytest.param(
            {"method": "/SpiffeWorkloadAPI/FetchJWTSVID"},
            grpc.StatusCode.UNIMPLEMENTED,
            "only /SpiffeWorkloadAPI/FetchX509SVID is served here, not /SpiffeWorkloadAPI/FetchJWTSVID",
            id="another method",
        ),
    ],
)
async def test_a_call_that_is_not_served_gets_its_status(
    tmp_path: Path, options: dict[str, object], code: grpc.StatusCode, text: str
) -> None:
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api:
        with pytest.raises(grpc.RpcError) as refused:
            await first(api.path, **options)
    assert refused.value.code() is code
    assert refused.value.details() == text


async def test_another_user_is_refused(tmp_path: Path) -> None:
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    async with open_workload_api(tmp_path / "w.sock", latest, bundle, frozenset({64999})) as api:
        with pytest.raises(grpc.RpcError) as refused:
            await first(api.path)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == f"user {os.getuid()} is not the proxy's, and only the proxy is served"


async def test_clients_get_a_status_when_the_agent_stops(tmp_path: Path) -> None:
    latest: Latest[Svid | None] = Latest(None)
    raised: list[grpc.RpcError] = []
    async with trio.open_nursery() as nursery:
        async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api:

            async def ask() -> None:
                try:
                    await first(api.path)
                except grpc.RpcError as problem:
                    raised.append(problem)

            nursery.start_soon(ask)
            await api.streams.wait_for(lambda streams: streams == 1)
    assert raised[0].code() is grpc.StatusCode.UNAVAILABLE
    assert not (tmp_path / "w.sock").exists()


async def test_a_stale_socket_is_replaced_and_a_served_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    async with open_workload_api(path, latest, bundle, ME):
        with pytest.raises(HostError) as refused:
            async with open_workload_api(path, latest, bundle, ME):
                pass
        assert refused.value.fault is Fault.ANOTHER_AGENT
        assert refused.value.message == f"{path} is served by another process"
        assert path.exists()
    stale = trio.socket.socket(trio.socket.AF_UNIX)
    await stale.bind(str(path))
    stale.close()
    async with open_workload_api(path, latest, bundle, ME) as api:
        assert await first(api.path)


async def test_nonsense_from_one_client_leaves_the_others_served(tmp_path: Path) -> None:
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api:
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 70000):
            stream = await trio.open_unix_socket(str(api.path))
            with contextlib.suppress(trio.BrokenResourceError):  # it may hang up before it has read all
                await stream.send_all(nonsense)
                while await stream.receive_some(65536):
                    pass
            await stream.aclose()
        assert await first(api.path)


async def test_clients_that_go_mad_in_the_middle_do_not_stop_one_that_listens(tmp_path: Path) -> None:
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    rotated = mesh().svid(time.time())
    draw = random.Random(7)
    keys: list[bytes] = []
    heard = Latest(0)
    async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api, trio.open_nursery() as nursery:

        async def listen() -> None:
            messages = fetch(api.path)
            for _ in range(2):
                keys.append(decode_response(await trio.to_thread.run_sync(lambda: next(messages)))[0].key)
                heard.set(len(keys))
            await trio.to_thread.run_sync(messages.close)  # type: ignore[attr-defined]

        nursery.start_soon(listen)
        await heard.wait_for(lambda count: count == 1)
        for _ in range(100):
            client = h2.connection.H2Connection()
            client.initiate_connection()
            client.send_headers(
                1, [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", METHOD), *SECURE]
            )
            content = bytearray(client.data_to_send() + draw.randbytes(50))
            content[draw.randrange(24, len(content))] ^= 1 << draw.randrange(8)
            async with await trio.open_unix_socket(str(api.path)) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(bytes(content))
        assert heard.value == 1
        latest.set(rotated)
    assert keys[1] == rotated.key


async def test_a_socket_that_fails_is_made_anew_and_streams_that_stand_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest: Latest[Svid | None] = Latest(mesh().svid(time.time()))
    async with open_workload_api(tmp_path / "w.sock", latest, bundle, ME) as api:
        messages = fetch(api.path)
        await trio.to_thread.run_sync(lambda: next(messages))
        accepts = failing_once(monkeypatch, "trio.SocketListener.accept", trio.SocketListener.accept)
        async with await trio.open_unix_socket(str(api.path)):
            pass  # the one that is being accepted; the next one is not
        newest = mesh().svid(time.time())
        latest.set(newest)
        pushed = await trio.to_thread.run_sync(lambda: next(messages))
        assert decode_response(pushed)[0].key == newest.key
        with trio.fail_after(20):
            while len({id(listener) for (listener,) in accepts}) < 2:  # type: ignore[misc]
                with contextlib.suppress(OSError):
                    await (await trio.open_unix_socket(str(api.path))).aclose()
                await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(messages.close)  # type: ignore[attr-defined]


async def test_a_client_that_cannot_be_served_is_dropped_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fall = [True]

    def anchors() -> tuple[bytes, ...]:
        if fall.pop() if fall else False:
            raise RuntimeError("it fell over")
        return bundle()

    svid = mesh().svid(time.time())
    async with open_workload_api(tmp_path / "w.sock", Latest[Svid | None](svid), anchors, ME) as api:
        with contextlib.suppress(grpc.RpcError):  # it comes again by itself, or not
            await first(api.path)
        (found,) = decode_response(await first(api.path))
        assert found.key == svid.key
    dropped = [line for line in caplog.messages if line.startswith("workload API: a client was dropped: ")]
    assert re.fullmatch(r".*: RuntimeError \(exclave/workload_api/[a-z]+\.py:[0-9]+\)", dropped[0])
