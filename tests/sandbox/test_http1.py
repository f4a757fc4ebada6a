"""Short HTTP answers over in-memory streams: a server's side, a client's, and both together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing

from exclave_sandbox.http1 import IDLE_TIME, Answer, HttpClient, json_answer, serve_requests


def echo(request: h11.Request) -> Answer:
    return json_answer(200, {"target": request.target.decode()})


@asynccontextmanager
async def served() -> AsyncIterator[trio.abc.Stream]:
    """A client's stream; the connection is served while the block runs."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_requests, far, echo)
        yield near
        nursery.cancel_scope.cancel()


async def test_requests_follow_each_other_until_one_is_the_last() -> None:
    async with served() as stream:
        client = HttpClient(stream)
        assert await client.get("x", "/a", is_last=False) == (200, b'{"target": "/a"}\n')
        assert client.is_open
        assert await client.get("x", "/b?c", is_last=True) == (200, b'{"target": "/b?c"}\n')
        assert not client.is_open
        assert await stream.receive_some() == b""


async def test_a_head_has_no_body_and_a_body_is_dropped() -> None:
    async with served() as stream:
        await stream.send_all(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert (await stream.receive_some()).endswith(b'{"target": "/p"}\n')
        await stream.send_all(b"HEAD /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await stream.receive_some()).endswith(b"\r\n\r\n")
        assert await stream.receive_some() == b""


@pytest.mark.parametrize("sent", [b"this is no HTTP\r\n\r\n", b"\x16\x03\x01\r\n\r\n"], ids=["text", "TLS"])
async def test_another_protocol_is_disconnected(sent: bytes) -> None:
    async with served() as stream:
        await stream.send_all(sent)
        assert await stream.receive_some() == b""


async def test_a_silent_client_is_disconnected(autojump_clock: object) -> None:
    async with served() as stream:
        began = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(IDLE_TIME)


async def test_an_answer_that_is_cut_off_is_an_error_and_the_connection_is_over() -> None:
    near, far = trio.testing.memory_stream_pair()
    client = HttpClient(near)
    async with trio.open_nursery() as nursery:

        async def cut() -> None:
            await far.receive_some()
            await far.aclose()

        nursery.start_soon(cut)
        with pytest.raises(h11.RemoteProtocolError):
            await client.get("x", "/", is_last=False)
    assert not client.is_open
