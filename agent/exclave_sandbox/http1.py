"""HTTP/1.1 over a stream: a server's and a client's side for short answers, and events for the stand-in proxy."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import trio

IDLE_TIME = 120.0  # seconds without a request after which a server closes a connection
_PIECE = 65536
Answer = tuple[int, str, bytes]  # status, content type and body


def json_answer(status: int, tree: Any) -> Answer:
    """An answer in JSON."""
    return status, "application/json", json.dumps(tree).encode() + b"\n"


async def next_event(http: h11.Connection, stream: trio.abc.Stream) -> h11.Event:
    """The next event of a connection; ConnectionClosed also where the peer has to wait for an answer first."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            return h11.ConnectionClosed()
        http.receive_data(bytes(await stream.receive_some(_PIECE)))


async def send_events(http: h11.Connection, stream: trio.abc.Stream, *events: h11.Event) -> None:
    """Send these events together."""
    if written := b"".join(http.send(event) or b"" for event in events):
        await stream.send_all(written)


async def serve_requests(stream: trio.abc.Stream, respond: Callable[[h11.Request], Answer]) -> None:
    """Answer a connection's requests until either side ends it, and close it. Other protocols are hung up on."""
    http = h11.Connection(h11.SERVER)
    async with stream:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            while (request := await _next_request(http, stream)) is not None:
                status, content_type, body = respond(request)
                headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
                events: list[h11.Event] = [h11.Response(status_code=status, headers=headers), h11.EndOfMessage()]
                if request.method != b"HEAD":
                    events.insert(1, h11.Data(data=body))
                await send_events(http, stream, *events)
                if http.our_state is h11.MUST_CLOSE:
                    return
                http.start_next_cycle()


async def _next_request(http: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
    """The next request, once its body has been read, which is dropped; None at the end of the connection."""
    request = None
    with trio.move_on_after(IDLE_TIME):
        while True:
            event = await next_event(http, stream)
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed):
                return None
    return None


class HttpClient:
    """A client's side of one connection. `is_open`: the last answer was whole, and neither side ended with it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.is_open = True
        self._http = h11.Connection(h11.CLIENT)

    async def get(self, host: str, path: str, *, is_last: bool) -> tuple[int, bytes]:
        """Status and body of one GET; `is_last` asks the server to close. Raises h11.ProtocolError, or as a stream."""
        self.is_open = False
        headers = [("Host", host), ("Connection", "close" if is_last else "keep-alive")]
        request = h11.Request(method="GET", target=path, headers=headers)
        await send_events(self._http, self.stream, request, h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := await next_event(self._http, self.stream), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                raise h11.RemoteProtocolError(f"the rest of an answer was expected, found {type(event).__name__}")
        self.is_open = (self._http.our_state, self._http.their_state) == (h11.DONE, h11.DONE)
        if self.is_open:
            self._http.start_next_cycle()
        return status, body
