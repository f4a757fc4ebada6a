"""An HTTPS server for tests: real TLS, real HTTP/1.1 with keep-alive, and the answers that a test writes."""

import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import h11
import trio
from cryptography import x509

from exclave_sandbox.http1 import next_event, send_events
from exclave_sandbox.pki import Authority, make_anchor, make_leaf


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """Writes the answer, whole or piece by piece. `cut` drops the connection."""

    connection: h11.Connection
    stream: trio.abc.Stream
    status: int = 0

    async def send(self, status: int, body: object, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.start(status, **{"Content-Type": "application/json", "Content-Length": str(len(content))} | headers)
        await self.piece(content)

    async def start(self, status: int, **headers: str) -> None:
        self.status = status
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        await self._write(h11.Response(status_code=status, headers=named))

    async def piece(self, content: bytes) -> None:
        await self._write(h11.Data(data=content))

    async def line(self, event: object) -> None:
        await self.piece(json.dumps(event).encode() + b"\n")

    async def cut(self) -> None:
        raise ConnectionCut

    async def _write(self, event: h11.Event) -> None:
        await send_events(self.connection, self.stream, event)


class ConnectionCut(Exception):
    """Raised by a handler that drops the connection."""


Handler = Callable[[Asked, Reply], Awaitable[None]]


@dataclass
class Served:
    """A running server: its URL, its CA, and the requests so far."""

    url: str
    ca: str
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def open_https(
    handler: Handler,
    *,
    anchor: Authority | None = None,
    leaf: Authority | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Served]:
    """Serve until the block ends; everything still open is dropped then."""
    anchor = anchor or make_anchor("test CA")
    tls = server_tls(leaf or make_leaf(anchor, [x509.IPAddress(ip_address(address))]))
    listeners = await trio.open_ssl_over_tcp_listeners(port, tls, host=address, https_compatible=True)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    host = f"[{address}]" if ":" in address else address
    served = Served(f"https://{host}:{port}", anchor.pem)

    async def serve(stream: trio.SSLStream) -> None:
        served.connections += 1
        try:
            await _talk(stream, handler, served)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, ConnectionCut):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield served
        nursery.cancel_scope.cancel()


def server_tls(leaf: Authority) -> ssl.SSLContext:
    """A server's context for this leaf."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder, "leaf.pem")
        pem.write_text(leaf.pem + leaf.key_pem)
        tls.load_cert_chain(pem)
    return tls


async def _talk(stream: trio.abc.Stream, handler: Handler, served: Served) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        asked = await _next_request(connection, stream)
        if asked is None:
            return
        served.asked.append(asked)
        reply = Reply(connection, stream)
        await handler(asked, reply)
        await send_events(connection, stream, h11.EndOfMessage())
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _next_request(connection: h11.Connection, stream: trio.abc.Stream) -> Asked | None:
    request: h11.Request | None = None
    content = b""
    while True:
        event = await next_event(connection, stream)
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = {name.decode(): value.decode() for name, value in request.headers}
            body = json.loads(content) if content else None
            return Asked(request.method.decode(), request.target.decode(), headers, body)
        else:
            return None
