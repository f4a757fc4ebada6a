"""HTTP/1.1 through the stand-in proxy. Each request is routed anew, so a withdrawn endpoint gets no more requests.

A request without a body is sent once more if its reused connection was closed. Upgrades are dropped.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h11
import trio

from exclave.kit.tasks.nursery import open_bare_nursery
from exclave_sandbox.http1 import next_event, send_events
from exclave_sandbox.standin.stream import BROKEN, Drain

_HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"expect"}
Headers = list[tuple[bytes, bytes]]


class Unroutable(Exception):
    """A request without a route: the status for the client, and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class RequestRoute:
    """The route of a request. Equal routes may share a connection; `client_id` is passed to the application."""

    key: object
    connect: Callable[[], Awaitable[trio.abc.Stream]] = field(compare=False)
    sets_client_id: bool = False
    client_id: str | None = None


Choose = Callable[[], Awaitable[RequestRoute]]  # finds the route of the next request. Raises Unroutable.
Count = Callable[[int], None]  # called with the status of each answer


@dataclass
class _Upstream:
    """A connection to an endpoint."""

    route: RequestRoute
    stream: trio.abc.Stream
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))
    is_used: bool = False


class HttpRelay:
    """One client's connection."""

    def __init__(self, client: trio.abc.Stream, choose: Choose, count: Count, drain: Drain) -> None:
        self._client = client
        self._choose = choose
        self._count = count
        self._drain = drain
        self._http = h11.Connection(h11.SERVER)
        self._upstream: _Upstream | None = None

    async def run(self) -> None:
        """Serve until the connection ends."""
        try:
            while True:
                with self._drain.idle() as waiting:
                    request = await next_event(self._http, self._client)
                if waiting.cancelled_caught or not isinstance(request, h11.Request):
                    return
                if not await self._serve(request):
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._refuse(Unroutable(400, "this is not HTTP"))
        finally:
            await self._drop_upstream()

    async def _serve(self, request: h11.Request) -> bool:
        """Answer one request; False if the connection cannot go on."""
        try:
            route = await self._choose()
            await self._exchange(request, route)
        except Unroutable as problem:
            await self._refuse(problem)
            return False
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        return not self._drain.is_draining

    async def _exchange(self, request: h11.Request, route: RequestRoute) -> None:
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers)
        if not has_body:
            await next_event(self._http, self._client)  # its end, which may have to be sent twice
        upstream = await self._reach(route)
        is_reused = upstream.is_used
        head = h11.Request(method=request.method, target=request.target, headers=_edited(request.headers, route))
        while True:
            try:
                response = await self._send_request(upstream, head, has_body)
                break
            except (*BROKEN, h11.RemoteProtocolError) as problem:
                await self._drop_upstream()
                if not is_reused or has_body:
                    raise Unroutable(502, f"the connection broke: {problem}") from None
            upstream, is_reused = await self._reach(route), False
        await self._answer(upstream, response)

    async def _send_request(self, upstream: _Upstream, head: h11.Request, has_body: bool) -> h11.Response:
        """Send a request and wait for the head of its answer, while the body goes out."""
        await send_events(upstream.http, upstream.stream, head)
        async with open_bare_nursery() as nursery:
            if has_body:
                nursery.start_soon(self._send_body, upstream)
            else:
                await send_events(upstream.http, upstream.stream, h11.EndOfMessage())
            response = await next_event(upstream.http, upstream.stream)
            while isinstance(response, h11.InformationalResponse):
                response = await next_event(upstream.http, upstream.stream)
            nursery.cancel_scope.cancel()
        if not isinstance(response, h11.Response):
            raise trio.BrokenResourceError("closed before an answer")
        return response

    async def _send_body(self, upstream: _Upstream) -> None:
        if self._http.they_are_waiting_for_100_continue:
            await send_events(self._http, self._client, h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = await next_event(self._http, self._client)
            try:
                await send_events(upstream.http, upstream.stream, event)
            except BROKEN:
                return  # the read of the answer fails, too, and reports it
            if isinstance(event, h11.EndOfMessage):
                return

    async def _answer(self, upstream: _Upstream, response: h11.Response) -> None:
        headers = [(name, value) for name, value in response.headers if name not in _HOP_BY_HOP]
        if self._drain.is_draining:
            headers.append((b"connection", b"close"))
        self._count(response.status_code)
        head = h11.Response(status_code=response.status_code, reason=response.reason, headers=headers)
        await send_events(self._http, self._client, head)
        while True:
            event = await next_event(upstream.http, upstream.stream)
            if not isinstance(event, (h11.Data, h11.EndOfMessage)):
                raise trio.BrokenResourceError("cut off")
            await send_events(self._http, self._client, event)
            if isinstance(event, h11.EndOfMessage):
                break
        if upstream.http.our_state is h11.DONE and upstream.http.their_state is h11.DONE:
            upstream.http.start_next_cycle()
            upstream.is_used = True
        else:
            await self._drop_upstream()

    async def _reach(self, route: RequestRoute) -> _Upstream:
        if self._upstream is not None and self._upstream.route == route:
            return self._upstream
        await self._drop_upstream()
        try:
            self._upstream = _Upstream(route, await route.connect())
        except BROKEN as problem:
            raise Unroutable(504 if isinstance(problem, trio.TooSlowError) else 502, f"{problem}") from None
        return self._upstream

    async def _drop_upstream(self) -> None:
        if self._upstream is not None:
            await trio.aclose_forcefully(self._upstream.stream)
            self._upstream = None

    async def _refuse(self, problem: Unroutable) -> None:
        self._count(problem.status)
        why = str(problem).encode("ascii", "replace")
        headers = [(b"l5d-proxy-error", why), (b"content-length", b"0"), (b"connection", b"close")]
        answer = h11.Response(status_code=problem.status, headers=headers)
        await send_events(self._http, self._client, answer, h11.EndOfMessage())


def _edited(headers: h11._headers.Headers, route: RequestRoute) -> Headers:
    """Headers as they are passed on. Only the proxy may set the client's identity."""
    dropped = _HOP_BY_HOP | ({b"l5d-client-id"} if route.sets_client_id else set())
    passed = [(name, value) for name, value in headers.raw_items() if name.lower() not in dropped]
    if route.sets_client_id and route.client_id is not None:
        passed.append((b"l5d-client-id", route.client_id.encode()))
    return passed
