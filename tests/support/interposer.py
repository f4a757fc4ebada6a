"""A proxy between clients and a real API server, with the faults of networks, load balancers and busy servers.

    async with open_interposer(server_url, server_ca, anchor) as between:
        between.treat = busy(429)      # what happens to each request from now on
        between.cut_all()              # and to those under way
        between.treat = honest

It terminates TLS, with a CA of its own, so that its certificate can be wrong. It passes on requests with their token,
and answers piece by piece.
"""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

import httpx
import trio
from cryptography import x509

from exclave_sandbox.pki import Authority, make_leaf
from support.https_server import Asked, ConnectionCut, Reply, Served, open_https

Treat = Callable[["Interposer", Asked, Reply], Awaitable[None]]

LOOPBACK: list[x509.GeneralName] = [x509.IPAddress(ip_address("127.0.0.1"))]
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "host"}


@dataclass
class Interposer:
    """The proxy. `asked` counts the requests that reached it, answered or not."""

    upstream: httpx.AsyncClient
    anchor: Authority
    treat: Treat
    leaf: Authority
    served: Served | None = None
    port: int = 0
    silenced: int = 0
    _under_way: set[trio.CancelScope] = field(default_factory=set)
    _listening: trio.CancelScope | None = None
    _ended: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def asked(self) -> int:
        """Requests that have arrived since it listens."""
        return len(self.served.asked) if self.served else 0

    def cut_all(self) -> None:
        """Drop every connection with a request under way."""
        for scope in self._under_way:
            scope.cancel()

    async def listen(self, *, task_status: "trio.TaskStatus[None]") -> None:
        """Serve until `close`, on the same port as before."""
        self._ended = trio.Event()
        with trio.CancelScope() as self._listening:
            async with open_https(self._answer, anchor=self.anchor, leaf=self.leaf, port=self.port) as self.served:
                self.port = int(self.served.url.rpartition(":")[2])
                task_status.started()
                await trio.sleep_forever()
        self._ended.set()

    async def close(self) -> None:
        """Stop listening, and drop every connection. The next `listen` uses the `leaf` of then."""
        assert self._listening is not None
        self._listening.cancel()
        await self._ended.wait()

    async def _answer(self, asked: Asked, reply: Reply) -> None:
        with trio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                await self.treat(self, asked, reply)
            finally:
                self._under_way.discard(scope)
        if scope.cancelled_caught:
            raise ConnectionCut

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[httpx.Response]:
        """Send the same request to the real server."""
        content = None if asked.body is None else json.dumps(asked.body).encode()
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in HOP}
        try:
            async with self.upstream.stream(asked.method, asked.target, content=content, headers=headers) as answer:
                yield answer
        except httpx.TransportError:
            raise ConnectionCut from None  # as a balancer does whose server is gone


def headers_of(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.lower() not in HOP}


def is_watch(asked: Asked) -> bool:
    return "watch=1" in asked.target


async def honest(between: Interposer, asked: Asked, reply: Reply) -> None:
    """Pass everything on."""
    async with between.ask(asked) as answer:
        await reply.start(answer.status_code, **headers_of(answer))
        async for piece in answer.aiter_raw():
            await reply.piece(piece)


def busy(status: int, reason: str) -> Treat:
    """Refuse everything, with Retry-After."""

    async def treat(between: Interposer, asked: Asked, reply: Reply) -> None:
        await reply.send(status, status_object(status, reason, "not now"), Retry_After="1")

    return treat


async def falling_silent(between: Interposer, asked: Asked, reply: Reply) -> None:
    """Answer each watch with one bookmark, and then with nothing, not even an end."""
    if not is_watch(asked):
        await honest(between, asked, reply)
        return
    version = parse_qs(urlsplit(asked.target).query)["resourceVersion"][0]
    await reply.start(200, Content_Type="application/json")
    await reply.line({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}})
    between.silenced += 1
    await trio.sleep_forever()


def status_object(code: int, reason: str, message: str) -> dict[str, object]:
    """A Status object of Kubernetes."""
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    }  # fmt: skip


def loopback_leaf(anchor: Authority, **more: object) -> Authority:
    """A certificate for its address."""
    return make_leaf(anchor, LOOPBACK, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def open_interposer(url: str, ca: str, anchor: Authority) -> AsyncIterator[Interposer]:
    """Listen before the API server at `url`; at first everything is passed on."""
    tls = ssl.create_default_context(cadata=ca)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, verify=tls, trust_env=False, timeout=None, limits=limits) as upstream:
        between = Interposer(upstream, anchor, honest, loopback_leaf(anchor))
        async with trio.open_nursery() as nursery:
            await nursery.start(between.listen)
            yield between
            nursery.cancel_scope.cancel()
