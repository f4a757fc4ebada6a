"""Requests through the stand-in, one by one: a real client and applications on loopback, the relay between them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import h11
import pytest
import trio

from exclave_sandbox.standin.http import HttpRelay, RequestRoute, Unroutable
from exclave_sandbox.standin.stream import Drain, connect


@dataclass
class Application:
    """An HTTP/1.1 server that echoes; `heard` is what came to it. It closes after `lasts` requests on a connection."""

    lasts: int = 1000
    port: int = 0
    heard: list[tuple[bytes, dict[bytes, bytes], bytes]] = field(default_factory=list)
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        async with stream:
            for _ in range(self.lasts):
                request, body = await self._read(http, stream)
                if request is None:
                    return
                self.heard.append((request.target, dict(request.headers), body))
                head = h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")])
                for event in (head, h11.Data(data=b"heard " + body), h11.EndOfMessage()):
                    await stream.send_all(http.send(event) or b"")
                http.start_next_cycle()

    @staticmethod
    async def _read(http: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request | None, bytes]:
        request, body = None, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    go_on = http.send(h11.InformationalResponse(status_code=100, headers=[]))
                    await stream.send_all(go_on or b"")
                http.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return (request, body) if isinstance(event, h11.EndOfMessage) else (None, b"")


@dataclass
class Relayed:
    """A client in front of a relay."""

    client: trio.SocketStream
    drain: Drain
    counted: list[int]
    ended: trio.Event
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    async def ask(self, target: str = "/", body: bytes = b"", **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
        """One request on the one connection; status, headers, body."""
        named = [("Host", "web"), *((name.replace("_", "-"), value) for name, value in headers.items())]
        if body:
            named.append(("Content-Length", str(len(body))))
        for event in (h11.Request(method="POST" if body else "GET", target=target, headers=named), h11.Data(data=body)):
            await self.client.send_all(self.http.send(event) or b"")
        await self.client.send_all(self.http.send(h11.EndOfMessage()) or b"")
        status, met, answer = 0, {}, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.client.receive_some(65536))
            elif isinstance(event, h11.Response):
                status, met = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                answer += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self.http.our_state is h11.DONE:
                    self.http.start_next_cycle()
                return status, met, answer


@asynccontextmanager
async def relayed(choose: Callable[[], RequestRoute]) -> AsyncIterator[Relayed]:
    """A relay that asks `choose` for each request."""

    async def choose_soon() -> RequestRoute:
        return choose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await connect(("127.0.0.1", listener.socket.getsockname()[1]))
        accepted = await listener.accept()
    relay = Relayed(client, Drain(), [], trio.Event())

    async def run() -> None:
        await HttpRelay(accepted, choose_soon, relay.counted.append, relay.drain).run()
        await accepted.aclose()
        relay.ended.set()

    async with client, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield relay
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def application(lasts: int = 1000) -> AsyncIterator[Application]:
    app = Application(lasts)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, app.serve, 0, host="127.0.0.1"))
        app.port = listeners[0].socket.getsockname()[1]
        yield app
        nursery.cancel_scope.cancel()


def to(app: Application, key: object = "app", client_id: str | None = None, *, inbound: bool = False) -> RequestRoute:
    return RequestRoute(key, partial(connect, ("127.0.0.1", app.port)), sets_client_id=inbound, client_id=client_id)


async def test_a_request_and_its_answer_pass_and_hop_by_hop_headers_do_not() -> None:
    async with application() as app, relayed(lambda: to(app)) as relay:
        status, headers, answer = await relay.ask("/a?b", b"body", X_Passed="yes", Keep_Alive="timeout=5")
        assert (status, answer, relay.counted) == (200, b"heard body", [200])
        target, heard, body = app.heard[0]
    assert (target, body) == (b"/a?b", b"body")
    assert heard[b"x-passed"] == b"yes"
    assert heard[b"host"] == b"web"
    assert b"keep-alive" not in heard and b"connection" not in headers


async def test_requests_of_one_route_share_a_connection_and_another_route_has_its_own() -> None:
    async with application() as first, application() as second:
        routes = [to(first, 1), to(first, 1), to(second, 2), to(first, 1)]
        async with relayed(lambda: routes.pop(0)) as relay:
            for _ in range(4):
                assert (await relay.ask())[0] == 200
    assert (first.connections, second.connections) == (2, 1)
    assert (len(first.heard), len(second.heard)) == (3, 1)


@pytest.mark.parametrize("client_id", ["orders.shop.serviceaccount.identity.linkerd.cluster.local", None])
async def test_only_the_proxy_sets_the_clients_identity(client_id: str | None) -> None:
    async with application() as app, relayed(lambda: to(app, client_id=client_id, inbound=True)) as relay:
        await relay.ask(l5d_client_id="forged")
    assert app.heard[0][1].get(b"l5d-client-id") == (client_id.encode() if client_id else None)


async def test_a_request_over_a_closed_connection_is_sent_once_more() -> None:
    async with application(lasts=1) as app, relayed(lambda: to(app)) as relay:
        assert [(await relay.ask())[0] for _ in range(3)] == [200, 200, 200]
    assert app.connections == 3


async def test_a_request_with_a_body_is_never_sent_twice() -> None:
    async with application(lasts=1) as app, relayed(lambda: to(app)) as relay:
        assert (await relay.ask())[0] == 200
        status, headers, _ = await relay.ask(body=b"pay once")
    assert (status, headers[b"connection"]) == (502, b"close")
    assert headers[b"l5d-proxy-error"].startswith(b"the connection broke")
    assert [body for _, _, body in app.heard] == [b""]


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    async with application() as app, relayed(lambda: to(app)) as relay:
        assert (await relay.ask(body=b"much", Expect="100-continue"))[2] == b"heard much"


async def test_a_request_without_a_route_is_answered_with_the_reason() -> None:
    def refuse() -> RequestRoute:
        raise Unroutable(403, "unauthorized request from orders")

    async with relayed(refuse) as relay:
        status, headers, answer = await relay.ask()
        await relay.ended.wait()
    assert (status, headers[b"l5d-proxy-error"], answer) == (403, b"unauthorized request from orders", b"")
    assert relay.counted == [403]


async def test_an_application_that_is_not_there_is_a_bad_gateway() -> None:
    async with application() as app:
        gone = to(app)
    async with relayed(lambda: gone) as relay:
        assert (await relay.ask())[0] == 502


async def test_draining_ends_an_idle_connection() -> None:
    async with application() as app, relayed(lambda: to(app)) as relay:
        assert (await relay.ask())[0] == 200
        relay.drain.begin()
        await relay.ended.wait()
        assert await relay.client.receive_some() == b""


async def test_draining_answers_the_request_under_way_with_connection_close() -> None:
    async with application() as app:

        def begin_and_go() -> RequestRoute:
            relay.drain.begin()
            return to(app)

        async with relayed(begin_and_go) as relay:
            status, headers, _ = await relay.ask()
            await relay.ended.wait()
    assert (status, headers[b"connection"]) == (200, b"close")


async def test_another_protocol_is_answered_with_400() -> None:
    async with application() as app, relayed(lambda: to(app)) as relay:
        await relay.client.send_all(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        assert (await relay.client.receive_some()).startswith(b"HTTP/1.1 400 ")
        await relay.ended.wait()
