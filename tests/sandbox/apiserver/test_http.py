"""HTTP over TLS on loopback: keep-alive, streams and their clients, and what a client does wrong."""

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing
from cryptography import x509

from exclave_sandbox.apiserver.http import MOST_BODY_READ, Respond, serve_https
from exclave_sandbox.apiserver.messages import HttpRequest, Reply, Send, StreamedReply
from exclave_sandbox.pki import make_anchor, make_leaf
from support.https_server import server_tls

NOW = 1_700_000_000.0


class Client:
    """An HTTP client on one connection, made of h11's other half."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        fields = {"Host": "x", "Content-Length": str(len(body)), **headers}
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            await self.stream.send_all(self.http.send(event) or b"")

    async def next_event(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(bytes(await self.stream.receive_some()))
        return event

    async def receive(self) -> tuple[int, dict[bytes, bytes], bytes]:
        head, body = await self.next_event(), b""
        assert isinstance(head, h11.Response)
        while isinstance(event := await self.next_event(), h11.Data):
            body += bytes(event.data)
        if self.http.their_state is h11.DONE and self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        return head.status_code, dict(head.headers), body


ANCHOR = make_anchor()
LEAF = make_leaf(ANCHOR, [x509.DNSName("localhost")])


@asynccontextmanager
async def served(respond: Respond) -> AsyncIterator[Client]:
    """A client's connection, which is served while the block runs."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    trust = ssl.create_default_context(cadata=ANCHOR.pem)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_https, listeners, server_tls(LEAF), respond, lambda: NOW)
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        yield Client(trio.SSLStream(plain, trust, server_hostname="localhost", https_compatible=True))
        nursery.cancel_scope.cancel()


def echo(request: HttpRequest) -> Reply:
    shown = {"path": request.path, "query": dict(request.query), "host": request.headers["host"]}
    return Reply(200, {**shown, "body": request.body.decode()}, (("X-More", "1"),))


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with served(echo) as client:
        for number in range(3):
            await client.send("POST", f"/p%20{number}?a=b%26c&d=", b"hello")
            status, headers, body = await client.receive()
            expected = b'{"path":"/p%%20%d","query":{"a":"b&c","d":""},"host":"x","body":"hello"}' % number
            assert (status, body) == (200, expected)
            assert headers[b"date"] == b"Tue, 14 Nov 2023 22:13:20 GMT"
            assert headers[b"content-type"] == b"application/json"
            assert headers[b"x-more"] == b"1"


async def test_a_text_is_plain() -> None:
    async with served(lambda _request: Reply(200, "ok")) as client:
        await client.send("GET", "/livez")
        _, headers, body = await client.receive()
        assert (headers[b"content-type"], body) == (b"text/plain; charset=utf-8", b"ok")


async def test_a_request_that_asks_for_it_is_the_last() -> None:
    async with served(echo) as client:
        await client.send("GET", "/", Connection="close")
        await client.receive()
        assert await client.stream.receive_some() == b""


async def test_a_bug_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_request: HttpRequest) -> Reply:
        raise RuntimeError("no secret here")

    async with served(fail) as client:
        with caplog.at_level(logging.ERROR):
            await client.send("GET", "/x")
            status, _, body = await client.receive()
        assert status == 500
        assert b"Internal error occurred: RuntimeError" in body
        assert "sandbox: GET /x failed" in caplog.text


async def test_nonsense_is_refused_and_ends_the_connection() -> None:
    async with served(echo) as client:
        await client.stream.send_all(b"this is no HTTP\r\n\r\n")
        client.http = h11.Connection(h11.CLIENT)
        client.http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        status, _, _ = await client.receive()
        assert status == 400
        assert await client.stream.receive_some() == b""


async def test_a_body_beyond_the_limit_is_read_and_dropped() -> None:
    sizes: list[int] = []

    def note(request: HttpRequest) -> Reply:
        sizes.append(len(request.body))
        return Reply(413, "too large")

    async with served(note) as client:
        await client.send("POST", "/", b"x" * (3 * MOST_BODY_READ))
        assert (await client.receive())[0] == 413
        assert MOST_BODY_READ < sizes[0] < 2 * MOST_BODY_READ


async def test_a_client_that_expects_100_continue_may_send_its_body() -> None:
    async with served(echo) as client:
        request = h11.Request(
            method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "2"), ("Expect", "100-continue")]
        )
        await client.stream.send_all(client.http.send(request) or b"")
        assert isinstance(await client.next_event(), h11.InformationalResponse)
        for event in (h11.Data(data=b"hi"), h11.EndOfMessage()):
            await client.stream.send_all(client.http.send(event) or b"")
        assert b'"body":"hi"' in (await client.receive())[2]


def streaming(write: Callable[[Send], object]) -> Respond:
    return lambda _request: StreamedReply(write)  # type: ignore[arg-type]


async def test_pieces_of_a_stream_arrive_as_they_are_sent_and_the_connection_goes_on() -> None:
    go_on = trio.Event()

    async def write(send: Send) -> None:
        await send(b"one\n")
        await go_on.wait()
        await send(b"two\n")

    async with served(streaming(write)) as client:
        await client.send("GET", "/watch")
        head = await client.next_event()
        assert isinstance(head, h11.Response)
        assert (b"transfer-encoding", b"chunked") in list(head.headers)
        first = await client.next_event()
        assert isinstance(first, h11.Data)
        assert first.data == b"one\n"
        go_on.set()
        assert bytes((await client.next_event()).data) == b"two\n"  # type: ignore[attr-defined]
        assert isinstance(await client.next_event(), h11.EndOfMessage)
        client.http.start_next_cycle()
        await client.send("GET", "/watch")
        assert (await client.receive())[2] == b"one\ntwo\n"


async def test_a_request_sent_during_a_stream_is_answered_after_it() -> None:
    go_on = trio.Event()

    async def write(send: Send) -> None:
        await go_on.wait()
        await send(b"late")

    def respond(request: HttpRequest) -> Reply | StreamedReply:
        return StreamedReply(write) if request.path == "/watch" else Reply(200, "after")

    async with served(respond) as client:
        await client.send("GET", "/watch")
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_all(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        assert (await client.receive())[2] == b"late"
        client.http.send(h11.Request(method="GET", target="/next", headers=[("Host", "x")]))
        client.http.send(h11.EndOfMessage())
        assert (await client.receive())[2] == b"after"


async def test_a_stream_ends_when_its_client_goes() -> None:
    ended = trio.Event()

    async def write(send: Send) -> None:
        try:
            await send(b"one\n")
            await trio.sleep_forever()
        finally:
            ended.set()

    async with served(streaming(write)) as client:
        await client.send("GET", "/watch")
        await client.next_event()
        await client.stream.aclose()
        with trio.fail_after(5):
            await ended.wait()


async def test_cancelling_the_server_ends_a_stream_whose_client_does_not_read() -> None:
    sent = 0

    async def write(send: Send) -> None:
        nonlocal sent
        while True:
            await send(b"x" * 1_000_000)
            sent += 1

    with trio.fail_after(10):
        async with served(streaming(write)) as client:
            await client.send("GET", "/watch")
            await client.next_event()
            before = -1
            while sent > before:
                before = sent
                await trio.testing.wait_all_tasks_blocked(0.1)
