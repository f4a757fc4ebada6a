"""A client for plain HTTP, against real servers."""

from functools import partial

import httpx
import pytest
import trio

from exclave.kit.host.plain_http import open_plain_client
from support.https_server import Asked, Reply, open_https
from support.network_namespace import in_network_namespace


async def _answer(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready")


@in_network_namespace("169.254.77.1/32", "fd77:ec1a:7e::1/128")
async def test_its_own_address_is_the_loopback_one_whichever_address_its_server_has() -> None:
    met: list[str] = []

    async def meet(stream: trio.SocketStream) -> None:
        met.append(stream.socket.getpeername()[0])
        await _answer(stream)

    for address in ("127.0.0.1", "169.254.77.1", "::1", "fd77:ec1a:7e::1"):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, meet, 0, host=address))
            async with open_plain_client(address, listeners[0].socket.getsockname()[1], 5.0) as client:
                assert (await client.get("/ready")).text == "ready"
            nursery.cancel_scope.cancel()
    assert met == ["127.0.0.1", "127.0.0.1", "::1", "::1"]


async def test_it_reads_from_its_server_whatever_proxies_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, _answer, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_plain_client("127.0.0.1", port, 5.0) as client:
            assert (await client.get("/ready")).text == "ready"
        nursery.cancel_scope.cancel()


async def test_it_trusts_nobody() -> None:
    async def say(_: Asked, reply: Reply) -> None:
        await reply.send(200, "ready")

    async with open_https(say) as served, open_plain_client("127.0.0.1", 9, 5.0) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{served.url}/ready")
        assert served.asked == []


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("head", "piece", "pause"),
    [
        pytest.param(HEAD + b"\r\n", b"x" * 1_000_000, 0.0, id="an endless answer"),
        pytest.param(HEAD + b"\r\n", b"x", 0.01, id="an answer in small pieces, for ever"),
        pytest.param(HEAD + b"Content-Encoding: gzip\r\n\r\n", b"x", 0.01, id="a compressed answer"),
    ],
)
async def test_an_answer_is_bounded_in_size_and_time(head: bytes, piece: bytes, pause: float) -> None:
    async def flood(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive_some()
                await stream.send_all(head)
                while True:
                    await stream.send_all(b"%x\r\n%s\r\n" % (len(piece), piece))
                    await trio.sleep(pause)
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, flood, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        seconds = 1.0 if pause else 600.0
        async with open_plain_client("127.0.0.1", port, seconds) as client:
            with pytest.raises(httpx.ReadError, match="was expected"), trio.fail_after(120):
                await client.get("/metrics")
        nursery.cancel_scope.cancel()
