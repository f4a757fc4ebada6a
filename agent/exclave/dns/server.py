"""Answers DNS queries on UDP and TCP port 53 of one address. Once open, no failure here ends the agent."""

import errno
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from exclave.api.settings import Settings
from exclave.dns.zone import MAX_MESSAGE, HeadlessService, control_plane_services, respond
from exclave.errors import Fault, HostError
from exclave.kit.host.accepting import PAUSE, SHORTAGES, accept_connections
from exclave.kit.host.rebinding_socket import ReopenedSocket
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.milestones import Starting, log_milestone

log = logging.getLogger(__name__)

PORT = 53

MAX_CONNECTIONS = 32  # concurrent TCP connections, further ones are closed: the only clients are two local proxies

IDLE_TIME = 10.0  # seconds that a TCP connection may take for its next query (RFC 7766 section 6.2.3: a few)


@dataclass
class DnsStub:
    """A running stub server. `answers` counts replies by response code."""

    address: str
    answers: Counter[str] = field(default_factory=Counter)
    _services: tuple[HeadlessService, ...] | None = None

    def load(self, settings: Settings | None) -> None:
        """Answer by these settings from now on; None, or unusable ones, change nothing."""
        if settings is None:
            return
        try:
            self._services = control_plane_services(settings)
        except ValueError as problem:
            log.warning("dns: the settings' control plane cannot be used, the last good one stays in use: %s", problem)

    def answer(self, query: bytes, *, over_udp: bool) -> bytes | None:
        """The reply to one message; None if it gets no reply."""
        reply = respond(self._services, query, over_udp=over_udp)
        if reply is None:
            return None
        self.answers[reply.code] += 1
        return reply.wire

    async def follow(self, settings: Latest[Settings | None]) -> None:
        """Load every change until cancelled."""
        async for newest in settings.changes():
            self.load(newest)

    async def serve_udp(self, sock: trio.socket.SocketType) -> None:
        """Answer datagrams until cancelled."""
        while True:
            try:
                query, client = await sock.recvfrom(MAX_MESSAGE)
            except OSError as problem:
                if problem.errno not in SHORTAGES:
                    raise
                await trio.sleep(PAUSE)
                continue
            reply = self.answer(query, over_udp=True)
            if reply is None:
                continue
            try:
                await sock.sendto(reply, client)
            except OSError as problem:
                log.debug("dns: no reply to %s: %s", client, problem)

    async def serve_tcp(self, sock: trio.socket.SocketType) -> None:
        """Accept connections until cancelled."""
        async with open_bare_nursery() as connections:
            await accept_connections(
                "dns",
                sock,
                connections,
                self._serve_connection,
                lambda _: len(connections.child_tasks) < MAX_CONNECTIONS,
            )

    async def _serve_connection(self, stream: trio.abc.Stream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.TooSlowError):
                await self.converse(stream)

    async def converse(self, stream: trio.abc.Stream) -> None:
        """Answer the queries of one connection, each preceded by its length, until the client sends no more.

        Raises trio.TooSlowError after `IDLE_TIME` seconds without a complete query, trio.BrokenResourceError.
        """
        unread = bytearray()
        while True:
            with trio.fail_after(IDLE_TIME):
                length = await _read_exactly(stream, unread, 2)
                query = await _read_exactly(stream, unread, int.from_bytes(length, "big")) if length else b""
                reply = self.answer(query, over_udp=False)
                if reply is None:
                    return
                await stream.send_all(len(reply).to_bytes(2, "big") + reply)


@asynccontextmanager
async def open_dns(address: str, settings: Latest[Settings | None]) -> AsyncIterator[DnsStub]:
    """Answer on port 53 of `address`, a local one, by the newest settings while open.

    Raises HostError if the port is in use, the address is missing, or port 53 is not permitted.
    """
    stub = DnsStub(address)
    stub.load(settings.value)

    with ExitStack() as stack:
        parts = []
        for kind, serve in ((socket.SOCK_DGRAM, stub.serve_udp), (socket.SOCK_STREAM, stub.serve_tcp)):
            part = ReopenedSocket(partial(_bind, address, kind), serve)
            stack.callback(part.close)
            parts.append(part)
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "dns settings", partial(stub.follow, settings))
            for part, name in zip(parts, ("dns over UDP", "dns over TCP"), strict=True):
                nursery.start_soon(supervise, name, part.serve)
            log_milestone(Starting.NAMES)
            yield stub
            nursery.cancel_scope.cancel()


def _bind(address: str, kind: socket.SocketKind) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    plain = socket.socket(family, kind)
    try:
        if kind is socket.SOCK_STREAM:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind((address, PORT))
        if kind is socket.SOCK_STREAM:
            plain.listen()
    except OSError as problem:
        plain.close()
        where = f"{'UDP' if kind is socket.SOCK_DGRAM else 'TCP'} port {PORT} of {address}"
        if problem.errno in (errno.EACCES, errno.EPERM):
            hint = "run as root, with the capability NET_BIND_SERVICE"
            raise HostError(Fault.NO_PRIVILEGE, f"listening on {where} is not permitted", hint) from problem
        hint = f"see who does: ss --listening --numeric --processes --udp --tcp 'sport = :{PORT}'"
        raise HostError(Fault.OCCUPIED, f"cannot listen on {where}: {problem.strerror}", hint) from problem
    return trio.socket.from_stdlib_socket(plain)


async def _read_exactly(stream: trio.abc.Stream, unread: bytearray, count: int) -> bytes:
    """The next `count` bytes; none if the stream ends earlier."""
    while len(unread) < count:
        more = await stream.receive_some()
        if not more:
            return b""
        unread += more
    content = bytes(unread[:count])
    del unread[:count]
    return content
