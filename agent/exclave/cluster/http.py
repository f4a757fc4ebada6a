"""Requests and their answers, over httpx. The only module that imports httpx.

A request runs to its end even if its caller is cancelled. Every foreign exception becomes a ClusterError here.
"""

import contextlib
import json
import logging
import math
import os
import ssl
import stat
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from socket import IPPROTO_TCP, SHUT_RDWR, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

import httpx
import trio

from exclave import __version__
from exclave.api.requests import JSON, Object, Request, is_answer_to, refusal
from exclave.cluster.answers import MOST_BYTES, AnswerReader, AnswerTooLarge
from exclave.cluster.credential import is_token, token_subject
from exclave.cluster.endpoint import Access, host_and_port, in_turn
from exclave.cluster.failure import (
    CONNECT,
    PROXY_HINT,
    WHOLE,
    Failure,
    explain,
    no_answer,
    not_an_answer,
    not_kubernetes,
    unreachable,
)
from exclave.cluster.http_proxy import MOST_LOGIN, HttpProxy, split_login
from exclave.errors import ClusterError, Fault
from exclave.kit.formats.host_port import join_host_port
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

QUIET = 15.0  # seconds before a wait is reported
AT_ONCE = 64  # concurrent requests without streams, each with its connection; further ones wait here, not in httpcore

IDLE = 50.0  # seconds that an unused connection stays open: over a heartbeat, under the 60 s of load balancers

DROPPING = 1.0  # seconds that requests under way have left when connections are dropped
SAME_SKEW = 2.0  # seconds within which two differences of the clocks are the same
CLOSING = 2.0  # the same when the door closes; also the limit for closing a client


class Wait:
    """One wait for `what` since `since` (monotonic seconds), because of `reason`. `is_logged`: it was logged."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.since = trio.current_time()
        self.reason = "no answer yet"
        self.is_logged = False

    @property
    def text(self) -> str:
        """A line for a person."""
        return f"{self.what}: {self.reason}"


class Waits:
    """All waits of one cluster; `latest` describes the oldest one over `QUIET` seconds, or is None."""

    def __init__(self) -> None:
        self.latest: Latest[str | None] = Latest(None)
        self._pending: list[Wait] = []  # oldest first
        self._changed = trio.Event()

    @contextmanager
    def over(self, what: str) -> Iterator[Wait]:
        """Record that the caller waits for `what` while the block runs."""
        wait = self.begin(what)
        try:
            yield wait
        finally:
            self.end(wait)

    def begin(self, what: str) -> Wait:
        """Record a wait, until `end`."""
        wait = Wait(what)
        self._pending.append(wait)
        self._changed.set()
        return wait

    def end(self, wait: Wait) -> None:
        """Close a wait."""
        self._pending.remove(wait)
        if wait.is_logged:
            log.info("no longer waiting after %.0f s: %s", trio.current_time() - wait.since, wait.what)
        self._changed.set()

    def explain(self, wait: Wait, reason: str) -> None:
        """Set the reason why the wait continues."""
        wait.reason = reason
        self._changed.set()

    async def announce(self) -> None:
        """Log and publish the waits that have become long, until cancelled."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            long = [wait for wait in self._pending if now - wait.since >= QUIET]
            for wait in long:
                if not wait.is_logged:
                    wait.is_logged = True
                    log.warning("waiting for %.0f s %s", now - wait.since, wait.text)
            self.latest.set(long[0].text if long else None)
            due = min((wait.since + QUIET for wait in self._pending if not wait.is_logged), default=math.inf)
            with trio.move_on_at(due):
                await self._changed.wait()


T = TypeVar("T")


Fence = Callable[[], float]
"""Returns for how many seconds a request may still be sent and answered. Raises ClusterError if for none.

Called when it is the request's turn, and again before its first byte is sent.
"""


class _Client:
    """An httpx client. `users`: requests under way on it. A retired client is closed by its last user."""

    def __init__(self, tls: ssl.SSLContext, access: Access) -> None:
        self._tls, self._access = tls, access
        self._http: httpx.AsyncClient | None = None
        self.users = 0
        self.is_retired = False

    @property
    def http(self) -> httpx.AsyncClient:
        """Made at the first use. Raises ClusterError if the proxy's login cannot be read."""
        if self._http is None:
            self._http = make_client(self._tls, self._access)
        return self._http

    async def close(self) -> None:
        if self._http is not None:
            await _close(self._http)


class _Call:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Object | None = None
        self.problem: Exception | None = None


class Exchange:
    """Sends requests to the API server that works. Made by `open_exchange`.

    `skew`: seconds by which the server's clock (HTTP Date) was ahead of ours at the last answer, within `SAME_SKEW`.
    """

    def __init__(
        self, access: Access, token: Callable[[], str], now: Now, tls: ssl.SSLContext, nursery: trio.Nursery
    ) -> None:
        self.server = access.servers[0]  # the last one that worked
        self.reachable = Latest(False)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.skew: float | None = None
        self.waits = Waits()
        self.reader = AnswerReader()
        self._access = access
        self._token = token
        self._now = now
        self._nursery = nursery
        self._tls = tls
        self._trusted = access.ca
        self._client = _Client(self._tls, access)
        self._room = trio.Semaphore(AT_ONCE)
        self._scopes: set[trio.CancelScope] = set()
        self._answers: set[trio.CancelScope] = set()  # of requests that wait for an answer
        self._streams: set[Any] = set()  # sockets of streams

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
        """The bytes of a response that continues. Opening and reading raise as `answer` does."""
        client, socket = make_client(self._tls, self._access), None
        try:
            server, response = await self._try_each(partial(self._open, client, request))
            if (socket := _enable_keepalive(response)) is not None:
                self._streams.add(socket)
            async with aclosing(_bytes_of(response, partial(self._explain, server=server))) as received:
                yield received
        finally:
            self._streams.discard(socket)
            await _close(client)

    def trust(self, ca: str) -> None:
        """Trust these CAs (PEM) for new connections. Raises ClusterError if they cannot be read."""
        if ca != self._trusted:
            self._tls = make_tls(ca, self._access.tls_name)
            self._trusted = ca
            client = self._client
            self._retire(client)
            if client.users == 0:
                self._nursery.start_soon(_discard, client)

    def drop_connections(self) -> None:
        """Drop every connection: without the machine's former address, each would be silent for half a minute.

        Requests that wait for an answer fail soon, streams end, later requests connect again.
        """
        for scope in self._answers:
            scope.deadline = min(scope.deadline, trio.current_time() + DROPPING)
        for socket in self._streams:
            with contextlib.suppress(OSError):
                socket.shutdown(SHUT_RDWR)
        client = self._client
        self._retire(client)
        if client.users == 0:
            self._nursery.start_soon(_discard, client)

    async def finish(self) -> None:
        """Let the requests under way end within `CLOSING` seconds; then close the connections."""
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, trio.current_time() + CLOSING)
        client = self._client
        client.is_retired = True
        if client.users == 0:
            await client.close()

    async def _run_to_end(self, request: Request, fence: Fence | None, call: _Call) -> None:
        # Each server has its own limit, and so has closing its client; this one is never reached.
        # httpcore 0.16 (Debian 12) loses a place in its pool with each cancelled request, so requests run shielded.
        with shielded((len(self._access.servers) + 1) * (WHOLE + CLOSING)) as scope:
            self._scopes.add(scope)
            try:
                call.answer = await self._try_each(partial(self._ask, request, fence))
            except Exception as problem:  # raised in the caller, if it still waits
                call.problem = problem
            finally:
                self._scopes.discard(scope)
                self._room.release()
                call.done.set()

    async def _try_each(self, attempt: Callable[[str], Awaitable[T | Failure]]) -> T:
        failures = []
        for server in in_turn(self._access.servers, self.server):
            outcome = await attempt(server)
            if not isinstance(outcome, Failure):
                return outcome
            failures.append(outcome)
        self.reachable.set(False)
        raise unreachable(failures)

    async def _ask(self, request: Request, fence: Fence | None, server: str) -> Object | Failure:
        holds = WHOLE if fence is None else min(WHOLE, fence())
        token = self._read_token(request)
        client = self._client
        http = client.http
        client.users += 1  # until `finally`: nothing in between may raise
        try:
            with trio.move_on_after(holds) as whole:
                self._answers.add(whole)
                built = self._built(http, server, request, token, fence)
                response = await http.send(built, stream=True)
                return self._judged(server, request, response, await _body_of(response, request), token)
            assert whole.cancelled_caught
            self._retire(client)
            return self._failed(request, no_answer(server))
        except (httpx.HTTPError, httpx.StreamError, OSError) as problem:
            if isinstance(problem, httpx.ProxyError):
                self._retire(client)  # the next client reads the login again
            return self._failed(request, self._explain(problem, server))
        finally:
            self._answers.discard(whole)
            client.users -= 1
            if client.is_retired and client.users == 0:
                await client.close()

    async def _open(
        self, client: httpx.AsyncClient, request: Request, server: str
    ) -> tuple[str, httpx.Response] | Failure:
        token = self._read_token(request)
        try:
            with trio.move_on_after(WHOLE) as whole:
                response = await client.send(self._built(client, server, request, token), stream=True)
                if response.is_success:
                    self._record_answer(server, request, response)
                    return server, response
                judged = self._judged(server, request, response, await _body_of(response, request), token)
                assert isinstance(judged, Failure)
                return judged
            assert whole.cancelled_caught
            return self._failed(request, no_answer(server))
        except (httpx.HTTPError, OSError) as problem:
            return self._failed(request, self._explain(problem, server))

    def _explain(self, problem: BaseException, server: str) -> Failure:
        proxy = self._access.proxy_for(server)
        host = self._access.tls_name or host_and_port(server)[0]
        return explain(problem, server, host, proxy.url if proxy else "", has_own_ca=bool(self._access.ca))

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
        headers["Accept-Encoding"] = "gzip"  # one of which httpx unpacks a piece at a time
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

    def _judged(
        self, server: str, request: Request, response: httpx.Response, content: bytes, token: str
    ) -> Object | Failure:
        """The object in a complete answer. Raises ApiRefusal."""
        try:
            body = self.reader.read(content)
        except ValueError:
            body = None
        if response.is_success and not isinstance(body, dict):
            content_type = response.headers.get("Content-Type", "")
            return self._failed(request, not_kubernetes(server, response.status_code, content_type))
        if not response.is_success and not is_answer_to(request, response.status_code, body):
            return self._failed(request, not_an_answer(server, response.status_code))
        self._record_answer(server, request, response)
        if response.is_success:
            assert isinstance(body, dict)
            return body
        who, retry_after = token_subject(token), response.headers.get("Retry-After")
        raise refusal(request, response.status_code, body, server=server, who=who, retry_after=retry_after)

    def _record_answer(self, server: str, request: Request, response: httpx.Response) -> None:
        self.counts[request.verb, str(response.status_code)] += 1
        if server != self.server:
            log.info("using API server %s; %s failed", server, self.server)
        self.server = server
        self.reachable.set(True)
        with contextlib.suppress(KeyError, ValueError, TypeError):
            skew = parsedate_to_datetime(response.headers["Date"]).timestamp() - self._now()
            # Date has whole seconds, and an answer is on its way for a while: a smaller change is none.
            if self.skew is None or abs(skew - self.skew) > SAME_SKEW:
                self.skew = skew

    def _failed(self, request: Request, failure: Failure) -> Failure:
        self.counts[request.verb, ""] += 1
        log.debug("%s %s: %s", request.verb, request.what, failure.text)
        return failure

    def _retire(self, client: _Client) -> None:
        """Use another client for new requests, after our deadline cut one; this one's last request closes it."""
        if not client.is_retired:
            client.is_retired = True
            self._client = _Client(self._tls, self._access)


@asynccontextmanager
async def open_exchange(access: Access, token: Callable[[], str], now: Now) -> AsyncIterator[Exchange]:
    """Hold connections to a cluster while open. Raises ClusterError if `access.ca` is no PEM."""
    tls = make_tls(access.ca, access.tls_name)
    async with open_bare_nursery() as nursery:
        exchange = Exchange(access, token, now, tls, nursery)
        nursery.start_soon(supervise, "waits", exchange.waits.announce)
        try:
            yield exchange
        finally:
            await exchange.finish()
            nursery.cancel_scope.cancel()  # ends what is not shielded


class _NamedContext(ssl.SSLContext):
    """Expects `name` in certificates and sends it as SNI, in place of the URL's, directly and through a proxy."""

    name = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.name or server_hostname, session)


def make_tls(ca: str, name: str = "") -> ssl.SSLContext:
    """Trust exactly these certificates, roots or not, as kubectl does; "": those that this machine trusts.

    `name`: the one in the server's certificate; "": that of the URL. Raises ClusterError.
    """
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not ca:
        context.load_default_certs()
        return context
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError):
        text = "the cluster's CA was expected to be certificates in PEM, and cannot be read as such"
        raise ClusterError(Fault.UNREACHABLE, text, "make a new join token") from None
    return context


def make_client(tls: ssl.SSLContext, access: Access) -> httpx.AsyncClient:
    """A client for HTTP/1.1 with our TLS context and proxy, which ignores those of the environment.

    Raises ClusterError if the proxy's login cannot be read.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE, keepalive_expiry=IDLE)
    headers = {"User-Agent": f"exclave/{__version__}"}
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    for server in access.servers:
        if (proxy := access.proxy_for(server)) is not None:
            through = httpx.Proxy(proxy.url, auth=_load_login(proxy))
            origin = f"https://{join_host_port(*host_and_port(server))}"
            mounts[origin] = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits, proxy=through)
    return httpx.AsyncClient(verify=tls, trust_env=False, limits=limits, headers=headers, mounts=mounts)


def _load_login(proxy: HttpProxy) -> tuple[str, str] | None:
    path = proxy.login_file
    if path is None:
        return proxy.login
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
                raise ValueError("it must belong to root, with mode 0600")
            return split_login(file.read(MOST_LOGIN + 1))
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        text = f"the login for the HTTP proxy {proxy.url} cannot be read from {path}: {why}"
        raise ClusterError(Fault.UNREACHABLE, text, PROXY_HINT) from None


async def _check_fence(fence: Fence, event: str, _info: object) -> None:
    """Called by httpcore at each of its steps: the fence may have ended during the connection setup."""
    if event.endswith((".send_request_headers.started", ".send_request_body.started")):
        fence()


async def _close(client: httpx.AsyncClient) -> None:
    with shielded(CLOSING):
        await client.aclose()


async def _discard(client: _Client) -> None:
    try:
        await client.close()
    except Exception:
        log.debug("connections were not closed in order", exc_info=True)


async def _body_of(response: httpx.Response, request: Request) -> bytes:
    """The whole body, unpacked. Raises AnswerTooLarge."""
    content = bytearray()
    try:
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_bytes())) as received:
            async for piece in received:
                content += piece
                if len(content) > MOST_BYTES:
                    raise AnswerTooLarge(request.what)
    finally:
        with shielded(CLOSING):
            await response.aclose()
    return bytes(content)


async def _bytes_of(
    response: httpx.Response, explain_problem: Callable[[BaseException], Failure]
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as received:
            async for chunk in received:
                yield chunk
    except (httpx.HTTPError, httpx.StreamError, OSError) as problem:
        failure = explain_problem(problem)
    else:
        return
    raise unreachable([failure])


def _enable_keepalive(response: httpx.Response) -> Any:
    """Let the kernel find a dead peer of a silent stream within a minute. Returns the socket."""
    stream = response.extensions.get("network_stream")
    socket = stream.get_extra_info("socket") if stream is not None else None
    if socket is not None:
        socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        for option, value in ((TCP_KEEPIDLE, 30), (TCP_KEEPINTVL, 10), (TCP_KEEPCNT, 3)):
            socket.setsockopt(IPPROTO_TCP, option, value)
    return socket
