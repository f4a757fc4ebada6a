"""HTTP/1.1 over TLS: connections that are kept alive, whole answers, and chunked streams that end with their client.

Rules: one task a connection, one request at a time; a client that goes away ends its stream at once; what a client does
wrong ends its own connection and nothing else. Every answer bears a Date, by the clock that was given. There are no
limits of time between the handshake and the end: who connects is trusted to be a test or a demo.
"""

import contextlib
import json
import logging
import ssl
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import partial
from urllib.parse import parse_qsl

import h11
import trio

from exclave_sandbox.apiserver.message import HttpRequest, Reply, StreamedReply, refusal_reply
from exclave_sandbox.apiserver.refusal import bad_request, internal_error

log = logging.getLogger(__name__)

Respond = Callable[[HttpRequest], Reply | StreamedReply]
HANDSHAKE_SECONDS = 10.0
CLOSING_SECONDS = 1.0
KEPT_BODY = 4 * 1024 * 1024
"""Bytes of a body that are kept; the rest is read and dropped, so that the client hears the answer."""
_PIECE = 65536
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)


async def serve_https(
    listeners: Sequence[trio.SocketListener], context: ssl.SSLContext, respond: Respond, now: Callable[[], float]
) -> None:
    """Serve for ever; cancelling closes the listeners and every connection. `now` is epoch seconds."""
    await trio.serve_listeners(partial(_serve_transport, context, respond, now), list(listeners))


async def _serve_transport(
    context: ssl.SSLContext, respond: Respond, now: Callable[[], float], transport: trio.SocketStream
) -> None:
    stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
        await serve_connection(stream, respond, now)
        with trio.move_on_after(CLOSING_SECONDS):
            await stream.aclose()
    except (*_GONE, trio.TooSlowError):
        pass
    except Exception:
        log.exception("sandbox: a connection failed")
    finally:
        await trio.aclose_forcefully(stream)


async def serve_connection(stream: trio.abc.Stream, respond: Respond, now: Callable[[], float]) -> None:
    """Answer the requests of one connection until either side ends it. Raises what a broken stream raises."""
    connection = _Connection(stream, now)
    while True:
        try:
            request = await connection.next_request()
        except h11.RemoteProtocolError as problem:
            if connection.can_answer:
                await connection.send_reply(refusal_reply(bad_request(str(problem))))
            return
        if request is None:
            return
        reply = _answer(respond, request)
        if isinstance(reply, StreamedReply):
            await connection.send_stream(reply)
        else:
            await connection.send_reply(reply)
        if not connection.go_on():
            return


def _answer(respond: Respond, request: HttpRequest) -> Reply | StreamedReply:
    try:
        return respond(request)
    except Exception as problem:
        log.exception("sandbox: %s %s failed", request.method, request.path)
        return refusal_reply(internal_error(type(problem).__name__))


class _Connection:
    """One connection: h11's state and the stream it speaks over."""

    def __init__(self, stream: trio.abc.Stream, now: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = now
        self._http = h11.Connection(h11.SERVER)

    @property
    def can_answer(self) -> bool:
        """Whether an answer may still be sent."""
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def go_on(self) -> bool:
        """Prepare for the next request; False if there cannot be one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def next_request(self) -> HttpRequest | None:
        """Read a whole request; None at the end of the connection. Raises h11.RemoteProtocolError."""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            if len(body) <= KEPT_BODY:
                body += event.data
        path, _, query = head.target.decode("ascii").partition("?")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        values = dict(parse_qsl(query, keep_blank_values=True))
        return HttpRequest(head.method.decode("ascii"), path, values, headers, bytes(body))

    async def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(bytes(await self._stream.receive_some(_PIECE)))

    async def send_reply(self, reply: Reply) -> None:
        """Send a whole answer in one piece."""
        if isinstance(reply.body, str):
            kind, body = "text/plain; charset=utf-8", reply.body.encode()
        else:
            kind, body = "application/json", json.dumps(reply.body, separators=(",", ":")).encode()
        headers = [*self._headers(kind), ("Content-Length", str(len(body))), *reply.headers]
        await self._send(
            h11.Response(status_code=reply.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()
        )

    async def send_stream(self, reply: StreamedReply) -> None:
        """Send an answer that goes on; returns at its end. A client that goes away ends it early."""
        await self._send(h11.Response(status_code=200, headers=self._headers("application/json")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            with contextlib.suppress(*_GONE):
                await reply.write(self._send_piece)
                await self._send(h11.EndOfMessage())
            nursery.cancel_scope.cancel()

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        with contextlib.suppress(*_GONE):
            while received := await self._stream.receive_some(_PIECE):
                self._http.receive_data(bytes(received))  # the next request, early: h11 keeps it
        scope.cancel()

    async def _send_piece(self, piece: bytes) -> None:
        await self._send(h11.Data(data=piece))

    async def _send(self, *events: h11.Event) -> None:
        pieces = [self._http.send(event) or b"" for event in events]
        await self._stream.send_all(b"".join(pieces))

    def _headers(self, kind: str) -> list[tuple[str, str]]:
        return [("Date", formatdate(self._clock(), usegmt=True)), ("Content-Type", kind)]
