"""Requests and their answers, over httpx. The only module that knows httpx.

Rules: one client for ordinary requests, and no request on it is ever cancelled from outside: each runs in a task of
this door, shielded, until it is answered or out of time; a caller that is cancelled just leaves. (httpcore 0.16, Debian
12's, loses a place in its pool with each cancelled request.) A client on which our own deadline had to cut a request is
retired. How many run at once is counted here, not in httpcore's pool.
A request may have a fence: it is looked at when the request's turn has come and once more before a byte of it is sent,
and nothing is waited for longer than it holds.
When this machine has lost the address that its connections are from, all of them are dropped: they would be silent for
half a minute, and a member that is silent for so long is not live.
Each stream has a client of its own, closed shielded. One SSL context of ours, trusting `Access.ca` alone. Everything
foreign that is raised becomes a ClusterError here.
"""

import contextlib
import json
import logging
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from socket import IPPROTO_TCP, SHUT_RDWR, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL
from typing import Any, cast
from urllib.parse import urlencode

import httpx
import trio

from exclave import __version__
from exclave.api.requests import JSON, Object, Request, refusal
from exclave.cluster.credential import is_token, token_subject
from exclave.cluster.endpoint import Access, host_and_port, in_turn
from exclave.cluster.failure import CONNECT, WHOLE, Failure, explain, no_answer, not_kubernetes, unreachable
from exclave.cluster.waiting import Waits
from exclave.errors import ClusterError, Fault
from exclave.kit.formats.json_text import parse_json
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Ordinary requests under way; the next ones wait their turn. Each has a connection while it runs."""

IDLE = 50.0
"""Seconds that an unused connection is kept: a heartbeat finds it open, and load balancers (60 s and more) keep it."""

AFRESH = 1.0
"""Seconds that requests under way have left when connections are likely to be dead."""

CLOSING = 2.0
"""Seconds that requests under way have left when the door closes, and that closing a client may take."""


Fence = Callable[[], float]
"""Seconds for which a request may still be sent and answered. Raises ClusterError if there are none."""


class _Client:
    """An httpx client with the number of requests under way on it."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.http = make_client(tls)
        self.users = 0
        self.is_retired = False


class _Call:
    """A request under way, and what became of it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Object | None = None
        self.problem: Exception | None = None


class Exchange:
    """Sends requests to the API server that works; knows what came back. Made by `open_exchange`."""

    def __init__(
        self, access: Access, token: Callable[[], str], now: Now, tls: ssl.SSLContext, nursery: trio.Nursery
    ) -> None:
        self.server = access.servers[0]  # the one that worked last
        self.reachable = Latest(False)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.skew: float | None = None
        self.waits = Waits()
        self._access = access
        self._token = token
        self._now = now
        self._nursery = nursery
        self._tls = tls
        self._client = _Client(self._tls)
        self._room = trio.Semaphore(AT_ONCE)
        self._scopes: set[trio.CancelScope] = set()
        self._answers: set[trio.CancelScope] = set()  # of requests that wait for one
        self._streams: set[Any] = set()  # their sockets

    async def answer(self, request: Request, fence: Fence | None = None) -> Object:
        """Send a request to each server in turn until one answers. Raises ApiRefusal, or ClusterError if none did."""
        await self._room.acquire()
        call = _Call()
        self._nursery.start_soon(self._run_to_end, request, fence, call)
        await call.done.wait()
        if call.answer is not None:
            return call.answer
        raise call.problem or ClusterError(
            Fault.UNREACHABLE, f"could not {request.verb} {request.what}: exclave is ending", "run it again"
        )

    @asynccontextmanager
    async def open_stream(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes that a request brings for as long as it lasts. Raises as `answer` does, and while it is read."""
        client, socket = make_client(self._tls), None
        try:
            server, response = await self._open_each(client, request)
            if (socket := _enable_keepalive(response)) is not None:
                self._streams.add(socket)
            async with aclosing(_bytes_of(response, server)) as received:
                yield received
        finally:
            self._streams.discard(socket)
            await _close(client)

    def start_afresh(self) -> None:
        """Drop every connection: this machine has lost the address that they are from. What waits for an answer fails
        in a moment, as where no server answers; streams end; what is asked from now on finds new connections."""
        for scope in self._answers:
            scope.deadline = min(scope.deadline, trio.current_time() + AFRESH)
        for socket in self._streams:
            with contextlib.suppress(OSError):
                socket.shutdown(SHUT_RDWR)
        client = self._client
        self._retire(client)
        if client.users == 0:
            self._nursery.start_soon(_discard, client.http)

    async def finish(self) -> None:
        """Give the requests under way a little time, and no more; the last one closes the connections."""
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, trio.current_time() + CLOSING)
        client = self._client
        client.is_retired = True
        if client.users == 0:
            await _close(client.http)

    async def _run_to_end(self, request: Request, fence: Fence | None, call: _Call) -> None:
        # Each server has its own limit, and so has closing its client; this one is never reached.
        with shielded((len(self._access.servers) + 1) * (WHOLE + CLOSING)) as scope:
            self._scopes.add(scope)
            try:
                call.answer = await self._ask_each(request, fence)
            except Exception as problem:  # the caller's to see, if it is still there
                call.problem = problem
            finally:
                self._scopes.discard(scope)
                self._room.release()
                call.done.set()

    async def _ask_each(self, request: Request, fence: Fence | None) -> Object:
        failures = []
        for server in in_turn(self._access.servers, self.server):
            outcome = await self._ask(server, request, fence)
            if not isinstance(outcome, Failure):
                return outcome
            failures.append(outcome)
        self.reachable.set(False)
        raise unreachable(failures)

    async def _ask(self, server: str, request: Request, fence: Fence | None) -> Object | Failure:
        holds = WHOLE if fence is None else min(WHOLE, fence())
        token = self._read_token(request)
        client = self._client
        client.users += 1  # until `finally`: whatever may raise before must stand above
        try:
            with trio.move_on_after(holds) as whole:
                self._answers.add(whole)
                response = await client.http.send(self._built(client.http, server, request, token, fence))
                return self._judged(server, request, response, token)
            assert whole.cancelled_caught
            self._retire(client)
            return self._failed(request, no_answer(server))
        except (httpx.HTTPError, httpx.StreamError, OSError) as problem:
            return self._failed(request, explain(problem, server, host_and_port(server)[0]))
        finally:
            self._answers.discard(whole)
            client.users -= 1
            if client.is_retired and client.users == 0:
                await _close(client.http)

    async def _open_each(self, client: httpx.AsyncClient, request: Request) -> tuple[str, httpx.Response]:
        failures = []
        for server in in_turn(self._access.servers, self.server):
            token = self._read_token(request)
            try:
                with trio.move_on_after(WHOLE) as whole:
                    response = await client.send(self._built(client, server, request, token), stream=True)
                    if response.is_success:
                        self._heard_from(server, request, response)
                        return server, response
                    await response.aread()
                    self._judged(server, request, response, token)
                assert whole.cancelled_caught
                failures.append(self._failed(request, no_answer(server)))
            except (httpx.HTTPError, OSError) as problem:
                failures.append(self._failed(request, explain(problem, server, host_and_port(server)[0])))
        self.reachable.set(False)
        raise unreachable(failures)

    def _read_token(self, request: Request) -> str:
        try:
            return self._token()
        except (OSError, UnicodeDecodeError) as problem:
            why = problem if isinstance(problem, OSError) else "it is not text"
            raise ClusterError(
                Fault.UNREACHABLE,
                f"cannot {request.verb} {request.what}: the token cannot be read: {why}",
                "put a token where it is read from, and make it readable",
            ) from problem

    def _built(
        self, client: httpx.AsyncClient, server: str, request: Request, token: str, fence: Fence | None = None
    ) -> httpx.Request:
        if not is_token(token):
            raise ClusterError(
                Fault.NOT_PERMITTED,
                f"cannot {request.verb} {request.what}: a token of visible ASCII characters was expected",
                "join again with a new token",
            )
        query = f"?{urlencode(request.query)}" if request.query else ""
        headers = {"Authorization": f"Bearer {token}", "Accept": JSON}
        content = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            content = json.dumps(request.body, separators=(",", ":")).encode()
        if request.verb == "watch":
            headers["Accept-Encoding"] = "identity"
            timeout = httpx.Timeout(None, connect=CONNECT)
        else:
            timeout = httpx.Timeout(WHOLE, connect=CONNECT)
        url = server.rstrip("/") + request.path + query
        watched = {} if fence is None else {"trace": partial(_check_fence, fence)}
        return client.build_request(
            request.method, url, headers=headers, content=content, timeout=timeout, extensions=watched
        )

    def _judged(self, server: str, request: Request, response: httpx.Response, token: str) -> Object | Failure:
        """The object in a complete answer. Raises ApiRefusal if it was no."""
        try:
            body = parse_json(response.content)
        except ValueError:
            body = None
        if response.is_success and not isinstance(body, dict):
            content_type = response.headers.get("Content-Type", "")
            return self._failed(request, not_kubernetes(server, response.status_code, content_type))
        self._heard_from(server, request, response)
        if response.is_success:
            assert isinstance(body, dict)
            return body
        raise refusal(
            request,
            response.status_code,
            body,
            server=server,
            who=token_subject(token),
            retry_after=response.headers.get("Retry-After"),
        )

    def _heard_from(self, server: str, request: Request, response: httpx.Response) -> None:
        self.counts[request.verb, str(response.status_code)] += 1
        if server != self.server:
            log.info("using API server %s; %s failed", server, self.server)
        self.server = server
        self.reachable.set(True)
        with contextlib.suppress(KeyError, ValueError, TypeError):
            self.skew = parsedate_to_datetime(response.headers["Date"]).timestamp() - self._now()

    def _failed(self, request: Request, failure: Failure) -> Failure:
        self.counts[request.verb, ""] += 1
        log.debug("%s %s: %s", request.verb, request.what, failure.text)
        return failure

    def _retire(self, client: _Client) -> None:
        """Use another client from now on; the last request on this one closes it."""
        if not client.is_retired:
            client.is_retired = True
            self._client = _Client(self._tls)


@asynccontextmanager
async def open_exchange(access: Access, token: Callable[[], str], now: Now) -> AsyncIterator[Exchange]:
    """Keep connections to a cluster, and what is under way on them. Raises ClusterError if `access.ca` is no PEM."""
    tls = make_tls(access.ca)
    async with open_bare_nursery() as nursery:
        exchange = Exchange(access, token, now, tls, nursery)
        nursery.start_soon(supervise, "waits", exchange.waits.announce)
        try:
            yield exchange
        finally:
            await exchange.finish()
            nursery.cancel_scope.cancel()  # ends what is not shielded


def make_tls(ca: str) -> ssl.SSLContext:
    """Trust these certificates and no others, roots or not, as kubectl does. Raises ClusterError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise ClusterError(
            Fault.UNREACHABLE,
            "the cluster's CA was expected to be certificates in PEM, and cannot be read as such",
            "make a new join token",
        ) from None
    return context


def make_client(tls: ssl.SSLContext) -> httpx.AsyncClient:
    """A client for our own SSL context and HTTP/1.1, blind to proxies and certificates in the environment."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE, keepalive_expiry=IDLE)
    headers = {"User-Agent": f"exclave/{__version__}"}
    return httpx.AsyncClient(verify=tls, trust_env=False, limits=limits, headers=headers)


async def _check_fence(fence: Fence, event: str, _info: object) -> None:
    """Called by httpcore at each of its steps; a connection may have to be made first, and that takes time."""
    if event.endswith((".send_request_headers.started", ".send_request_body.started")):
        fence()


async def _close(client: httpx.AsyncClient) -> None:
    with shielded(CLOSING):
        await client.aclose()


async def _discard(client: httpx.AsyncClient) -> None:
    """Close connections that are likely to be dead, whatever comes of that."""
    try:
        await _close(client)
    except Exception:
        log.debug("connections were not closed in order", exc_info=True)


async def _bytes_of(response: httpx.Response, server: str) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as received:
            async for chunk in received:
                yield chunk
    except (httpx.HTTPError, httpx.StreamError, OSError) as problem:
        failure = explain(problem, server, host_and_port(server)[0])
    else:
        return
    raise unreachable([failure])


def _enable_keepalive(response: httpx.Response) -> Any:
    """Let the kernel find out within a minute that the other side of a silent stream is gone; the stream's socket."""
    stream = response.extensions.get("network_stream")
    socket = stream.get_extra_info("socket") if stream is not None else None
    if socket is not None:
        socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        for option, value in ((TCP_KEEPIDLE, 30), (TCP_KEEPINTVL, 10), (TCP_KEEPCNT, 3)):
            socket.setsockopt(IPPROTO_TCP, option, value)
    return socket
