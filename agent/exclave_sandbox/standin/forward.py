"""Connections through the stand-in proxy: from the kernel's redirect to their destination.

Inbound: TLS for the proxy's name is terminated, other TLS passes as bytes. A connection to the proxy's own port is
opaque traffic, with its port in a header. Then the original destination is dialled, not 127.0.0.1.
Outbound: a destination in the mesh's networks is looked up. A meshed peer must have the looked-up identity.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address

import trio

from exclave.link.layout import INBOUND_PORT
from exclave_sandbox.linkerd.destination_table import MeshEndpoint, NoEndpoints
from exclave_sandbox.standin.admin import Counts, Labels
from exclave_sandbox.standin.controllers import LookupCache
from exclave_sandbox.standin.http import HttpRelay, RequestRoute, Unroutable
from exclave_sandbox.standin.settings import Address, StandinSettings, is_permitted
from exclave_sandbox.standin.stream import (
    BROKEN,
    Drain,
    PeekedStream,
    connect,
    original_destination,
    relay,
    speaks_http1,
)
from exclave_sandbox.standin.tls import Tls, WrongServer
from exclave_sandbox.standin.wire import HEADER_START, decode_header, encode_header, header_length

log = logging.getLogger(__name__)
NO_TLS: Labels = (("tls", "no_identity"), ("no_tls_reason", "no_tls_from_remote"))
NOT_MESHED: Labels = (("tls", "no_identity"), ("no_tls_reason", "not_provided_by_service_discovery"))


class NotForwarded(Exception):
    """A connection that is not forwarded, and the reason."""


class Forwarder:
    """Forwards connections. One per proxy."""

    def __init__(self, settings: StandinSettings, tls: Tls, lookups: LookupCache, counts: Counts, drain: Drain) -> None:
        self._settings = settings
        self._tls = tls
        self._lookups = lookups
        self._counts = counts
        self._drain = drain

    async def accept_inbound(self, stream: trio.SocketStream) -> None:
        """Forward a connection from outside."""
        await self._forward(stream, self._inbound, "inbound")

    async def accept_outbound(self, stream: trio.SocketStream) -> None:
        """Forward a connection of a local program."""
        await self._forward(stream, self._outbound, "outbound")

    async def _forward(
        self,
        stream: trio.SocketStream,
        forward: Callable[[trio.SocketStream, Address], Awaitable[None]],
        direction: str,
    ) -> None:
        """A failure ends its own connection only."""
        own = stream.socket.getsockname()[:2]
        destination = original_destination(stream) or (own[0], own[1])
        target = ("target_addr", f"{destination[0]}:{destination[1]}")
        labels: Labels = (("direction", direction), ("peer", "src"), target)
        with self._drain.connection(), self._counts.open("tcp_open_connections", labels):
            try:
                await forward(stream, destination)
            except NotForwarded as refusal:
                log.info("connection to %s:%d refused: %s", *destination, refusal)
            except (*BROKEN, EOFError, ValueError, WrongServer, NoEndpoints) as problem:
                log.info("connection to %s:%d ended: %s", *destination, str(problem) or type(problem).__name__)
            finally:
                await trio.aclose_forcefully(stream)

    # Inbound.

    async def _inbound(self, accepted: trio.SocketStream, destination: Address) -> None:
        host, port = destination
        if self._settings.inbound_ips and host not in self._settings.inbound_ips:
            raise NotForwarded(f"{host} is none of this machine's addresses")
        # TLS for another name belongs to the application, and passes.
        stream, client_id, has_header = await self._tls.accept_for(PeekedStream(accepted), self._settings.server_name)
        is_opaque = self._settings.is_opaque(port)
        if port == INBOUND_PORT:
            if client_id is None or not has_header:
                raise NotForwarded("only other proxies may come to the proxy's own port")
            length = header_length(await stream.receive_exactly(HEADER_START))
            port, is_opaque = decode_header(await stream.receive_exactly(length)), True
            if port == INBOUND_PORT:
                raise NotForwarded("the proxy's own port is no application's")
        labels: Labels = (("tls", "true"), ("client_id", client_id)) if client_id else NO_TLS
        labels = (("direction", "inbound"), ("target_addr", f"{host}:{port}"), *labels)
        self._counts.add("tcp_open_total", (*labels[:1], ("peer", "src"), *labels[1:]))
        peer = accepted.socket.getpeername()[0]
        permitted = is_permitted(self._settings.policy, self._settings.cluster_networks, peer, client_id)
        route = RequestRoute("application", partial(connect, (host, port)), sets_client_id=True, client_id=client_id)
        if not is_opaque and await speaks_http1(stream):
            choose = partial(_permit, route, permitted, client_id)
            await HttpRelay(stream, choose, partial(self._count, labels), self._drain).run()
        elif permitted:
            async with await connect((host, port)) as application:
                await relay(stream, application)
        else:
            raise NotForwarded(f"unauthorized connection from {client_id or peer}")

    # Outbound.

    async def _outbound(self, accepted: trio.SocketStream, destination: Address) -> None:
        stream = PeekedStream(accepted)
        if destination in self._settings.outbound:
            raise NotForwarded("it was not redirected here")
        endpoint = await self._find(destination)
        if endpoint is None or endpoint.opaque or not await speaks_http1(stream):
            self._counts.add("tcp_open_total", (("direction", "outbound"), ("peer", "dst"), *_labels(endpoint)))
            async with await self._reach(endpoint, destination) as peer:
                await relay(stream, peer)
            return

        async def choose() -> RequestRoute:
            nonlocal endpoint
            try:
                endpoint = await self._find(destination)
            except NoEndpoints as problem:
                raise Unroutable(503, str(problem)) from None
            return RequestRoute(endpoint, partial(self._reach, endpoint, destination))

        def count(status: int) -> None:
            self._count((("direction", "outbound"), *_labels(endpoint)), status)

        await HttpRelay(stream, choose, count, self._drain).run()

    async def _find(self, destination: Address) -> MeshEndpoint | None:
        host, _ = destination
        if host in self._settings.inbound_ips:
            return None  # calling oneself
        if not any(ip_address(host) in network for network in self._settings.profile_networks):
            return None
        return await self._lookups.find(destination)

    async def _reach(self, endpoint: MeshEndpoint | None, destination: Address) -> trio.abc.Stream:
        """A stream to an endpoint, or to the destination itself if that is not in the mesh (None)."""
        if endpoint is None:
            return await connect(destination)
        if endpoint.identity is None or endpoint.server_name is None:
            return await connect((endpoint.address, endpoint.port))
        port = INBOUND_PORT if endpoint.opaque else endpoint.port
        plain = await connect((endpoint.address, port))
        try:
            secured = await self._tls.connect(
                plain, endpoint.server_name, endpoint.identity, transport_header=endpoint.opaque
            )
            if endpoint.opaque:
                await secured.send_all(encode_header(endpoint.port))
        except WrongServer as problem:
            raise trio.BrokenResourceError(str(problem)) from None
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return secured

    def _count(self, labels: Labels, status: int) -> None:
        self._counts.add("request_total", labels)
        self._counts.add("response_total", (*labels, ("status_code", str(status))))


async def _permit(route: RequestRoute, permitted: bool, client_id: str | None) -> RequestRoute:
    if not permitted:
        raise Unroutable(403, f"unauthorized request from {client_id or 'an unauthenticated client'}")
    return route


def _labels(endpoint: MeshEndpoint | None) -> Labels:
    if endpoint is None or endpoint.identity is None:
        return NOT_MESHED
    target = ("target_addr", f"{endpoint.address}:{endpoint.port}")
    return (target, ("tls", "true"), ("server_id", endpoint.identity))
