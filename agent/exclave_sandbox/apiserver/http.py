"""HTTP/1.1 over TLS, by hypercorn's connections on trio: whole answers, and chunked streams that end with their client.

A mistake of a client ends its own connection only. `hypercorn.trio.serve` cannot close a connection at once.
"""

import inspect
import json
import logging
import math
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import trio
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from exclave.kit.tasks.nursery import open_bare_nursery
from exclave_sandbox.apiserver.messages import HttpRequest, Refusal, Reply, StreamedReply, refusal_reply

log = logging.getLogger(__name__)
Respond = Callable[[HttpRequest], Reply | StreamedReply]
HANDSHAKE_TIME = 10.0  # seconds
MOST_BODY_READ = 4 * 1024 * 1024
"""Bytes of a body that are stored. The rest is read and dropped, so that the client gets the answer."""

_Message = dict[str, Any]  # of ASGI, https://asgi.readthedocs.io
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


async def serve_https(
    listeners: Sequence[trio.SocketListener], context: ssl.SSLContext, respond: Respond, now: Callable[[], float]
) -> None:
    """Serve until cancelled, which closes the listeners and every connection. `now` is epoch seconds."""
    serve = partial(_serve_connection, context, _application(respond), _HypercornConfig(now))
    await trio.serve_listeners(serve, list(listeners))


class _HypercornConfig(Config):
    accesslog = None
    errorlog = log
    keep_alive_timeout = math.inf
    keep_alive_max_requests = sys.maxsize
    ssl_handshake_timeout = HANDSHAKE_TIME

    def __init__(self, now: Callable[[], float]) -> None:
        self._clock = now

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        return [(b"date", formatdate(self._clock(), usegmt=True).encode())]


class _Connection(TCPServer):
    async def _read_data(self) -> None:
        await super()._read_data()
        await self.protocol.handle(Closed())  # hypercorn 0.13 (Debian 12) does not end a stream at the client's EOF


async def _serve_connection(
    context: ssl.SSLContext, application: Callable[..., Awaitable[None]], config: Config, transport: trio.SocketStream
) -> None:
    connection = _accepted(
        _Connection,
        app=application,
        config=config,
        context=_accepted(WorkerContext, max_requests=None),
        state={},
        stream=trio.SSLStream(transport, context, server_side=True, https_compatible=True),
    )
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(_close_at_cancel, transport)
            await connection.run()
            nursery.cancel_scope.cancel()
    except Exception:
        log.exception("sandbox: a connection failed")


def _accepted(of: Callable[..., Any], **arguments: Any) -> Any:
    """Call `of` with those arguments that it has in this version of hypercorn: 0.16 and 0.17 added one each."""
    return of(**{name: arguments[name] for name in inspect.signature(of).parameters})


async def _close_at_cancel(transport: trio.SocketStream) -> None:
    """hypercorn shields what it sends, so a client that does not read would keep its connection open for ever."""
    try:
        await trio.sleep_forever()
    finally:
        await trio.aclose_forcefully(transport)


def _application(respond: Respond) -> Callable[..., Awaitable[None]]:
    """The ASGI application. hypercorn passes two more arguments than ASGI has from 0.14 on."""

    async def answer(scope: _Message, receive: _Receive, send: _Send, *_: object) -> None:
        request = await _read_request(scope, receive)
        if request is None:
            return
        reply = _answer(respond, request)
        if isinstance(reply, StreamedReply):
            await _send_stream(reply, receive, send)
        else:
            await _send_reply(reply, send)

    return answer


async def _read_request(scope: _Message, receive: _Receive) -> HttpRequest | None:
    """The whole request; None if its client went away before its end."""
    body, is_whole = bytearray(), False
    while not is_whole:
        message = await receive()
        if message["type"] != "http.request":
            return None
        if len(body) <= MOST_BODY_READ:
            body += message["body"]
        is_whole = not message["more_body"]
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True))
    return HttpRequest(scope["method"], scope["raw_path"].decode("ascii"), query, headers, bytes(body))


def _answer(respond: Respond, request: HttpRequest) -> Reply | StreamedReply:
    try:
        return respond(request)
    except Exception as problem:
        log.exception("sandbox: %s %s failed", request.method, request.path)
        return refusal_reply(Refusal(500, "InternalError", f"Internal error occurred: {type(problem).__name__}"))


async def _send_reply(reply: Reply, send: _Send) -> None:
    if isinstance(reply.body, str):
        kind, body = "text/plain; charset=utf-8", reply.body.encode()
    else:
        kind, body = "application/json", json.dumps(reply.body, separators=(",", ":")).encode()
    await _send_head(send, reply.status, ("Content-Type", kind), ("Content-Length", str(len(body))), *reply.headers)
    await _send_piece(send, body, is_last=True)


async def _send_stream(reply: StreamedReply, receive: _Receive, send: _Send) -> None:
    await _send_head(send, 200, ("Content-Type", "application/json"))
    await _send_piece(send, b"")  # hypercorn 0.13 sends the head with the first piece
    async with open_bare_nursery() as nursery:
        nursery.start_soon(_cancel_at_disconnect, receive, nursery.cancel_scope)
        await reply.write(partial(_send_piece, send))
        await _send_piece(send, b"", is_last=True)
        nursery.cancel_scope.cancel()


async def _cancel_at_disconnect(receive: _Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send_head(send: _Send, status: int, *headers: tuple[str, str]) -> None:
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _send_piece(send: _Send, piece: bytes, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
