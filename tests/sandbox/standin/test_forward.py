"""Connections on their way through the stand-in, as the kernel redirects them: a machine and a pod on one `lo`.

10.77.0.20 is the machine; its proxy's places are those of instance a. 10.77.0.30 is a client outside of it, and
10.42.0.10 a pod, with a proxy of its own: mutual TLS in front of an application.
"""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509

from exclave.proxy.environment import proxy_environment
from exclave_sandbox.linkerd.destination_table import MeshEndpoint
from exclave_sandbox.pki import make_leaf
from exclave_sandbox.standin.admin import Counts
from exclave_sandbox.standin.forward import Forwarder
from exclave_sandbox.standin.settings import Address, StandinSettings, read_environment
from exclave_sandbox.standin.stream import Drain, PeekedStream, connect
from exclave_sandbox.standin.tls import Tls
from exclave_sandbox.standin.wire import HEADER_START, decode_header, encode_header, header_length
from support.mesh import make_settings, mesh
from support.network_namespace import in_network_namespace

from .test_tls import DNS, POD, SERVER_NAME, URI, end, machine, pair_of

VM, CLIENT, PEER, PROXY = "10.77.0.20", "10.77.0.30", "10.42.0.10", "169.254.77.1"
HTTP, RAW, OPAQUE, MESHED, PLAIN = 8080, 9000, 25, 8443, 8000

RULES = f"""
table ip t {{
  chain p {{
    type nat hook output priority -100;
    ip saddr {CLIENT} meta l4proto tcp ip daddr {{ {VM}, 10.77.0.21 }} dnat to {PROXY}:4143;
    ip saddr {VM} meta l4proto tcp ip daddr {PEER} dnat to {PROXY}:4140;
  }};
}};
"""

here = in_network_namespace(*(f"{address}/32" for address in (VM, "10.77.0.21", CLIENT, PEER, PROXY)))


@dataclass
class Heard:
    """The bytes that applications have received."""

    words: list[bytes] = field(default_factory=list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Say which bytes came first, as an HTTP answer if they are HTTP."""
        async with stream:
            first = bytes(await stream.receive_some(65536))
            self.words.append(first)
            body = b"application"
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            if first:
                await stream.send_all(head + body if b"HTTP/1.1" in first else body)


class FixedLookups:
    """Lookups whose answers are given."""

    def __init__(self) -> None:
        self.endpoints: dict[Address, MeshEndpoint] = {}

    async def find(self, destination: Address) -> MeshEndpoint | None:
        return self.endpoints.get(destination)


@dataclass
class Town:
    """The proxy under test, and everybody around it."""

    heard: Heard
    lookups: FixedLookups
    counts: Counts
    pod: Tls

    async def call(
        self, source: str, destination: Address, request: bytes = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
    ) -> bytes:
        """Say something from an address; all that comes back."""
        stream = await trio.open_tcp_stream(*destination, local_address=source)
        async with stream:
            return await converse(stream, request)

    async def call_meshed(self, port: int, request: bytes, *, identity: str = URI, header: int | None = None) -> bytes:
        """The same as a pod's proxy does it."""
        plain = await trio.open_tcp_stream(VM, port, local_address=CLIENT)
        secured = await self.pod.connect(plain, SERVER_NAME, identity, transport_header=header is not None)
        return await converse(secured, (encode_header(header) if header else b"") + request)


async def read_header(stream: PeekedStream) -> int:
    start = await stream.receive_exactly(HEADER_START)
    return decode_header(await stream.receive_exactly(header_length(start)))


async def converse(stream: trio.abc.Stream, request: bytes) -> bytes:
    await stream.send_all(request)
    answer = b""
    try:
        while piece := bytes(await stream.receive_some(65536)):
            answer += piece
            if b"application" in answer:
                break
    except trio.BrokenResourceError:
        pass  # TLS that was ended without a word
    return answer


def settings(**changes: object) -> StandinSettings:
    group, socket = make_settings(mesh().anchor.pem), Path("/w")
    environment = proxy_environment(group, "web-1", (VM,), "a", socket, "info", drain=1.0, families=(4,))
    return replace(read_environment(environment), **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def open_town(**changes: object) -> AsyncIterator[Town]:
    subprocess.run(["nft", RULES], check=True)
    town = Town(
        Heard(), FixedLookups(), Counts(), end(pair_of(make_leaf(mesh().issuer, [x509.DNSName(POD)]), mesh().issuer))
    )
    forwarder = Forwarder(settings(**changes), end(machine()), town.lookups, town.counts, Drain())  # type: ignore[arg-type]

    async def be_pods_proxy(stream: trio.SocketStream) -> None:
        secured, client_id, has_header = await town.pod.accept(PeekedStream(stream))
        port = await read_header(secured) if has_header else 0
        town.heard.words.append(f"{client_id} {port}".encode())
        await town.heard.serve(secured)

    async with trio.open_nursery() as nursery:
        for handler, place in (
            (forwarder.accept_inbound, (PROXY, 4143)),
            (forwarder.accept_outbound, (PROXY, 4140)),
            (town.heard.serve, (VM, HTTP)),
            (town.heard.serve, (VM, RAW)),
            (town.heard.serve, (VM, OPAQUE)),
            (town.heard.serve, (PEER, PLAIN)),
            (be_pods_proxy, (PEER, MESHED)),
            (be_pods_proxy, (PEER, 4143)),
        ):
            host, port = place
            await nursery.start(partial(trio.serve_tcp, handler, port, host=host))
        yield town
        nursery.cancel_scope.cancel()


@here
async def test_a_pods_request_reaches_the_application_with_the_pods_name() -> None:
    async with open_town() as town:
        answer = await town.call_meshed(HTTP, b"GET / HTTP/1.1\r\nHost: web\r\nL5d-Client-Id: forged\r\n\r\n")
        assert answer.endswith(b"application")
        (request,) = town.heard.words
        assert f"l5d-client-id: {POD}".encode() in request.lower()
        assert b"forged" not in request
        assert (
            f'request_total{{direction="inbound",target_addr="{VM}:{HTTP}",tls="true",client_id="{POD}"}} 1'
            in town.counts.render()
        )


@here
async def test_a_request_in_plaintext_comes_without_a_name() -> None:
    async with open_town() as town:
        assert (await town.call(CLIENT, (VM, HTTP))).endswith(b"application")
        assert b"l5d-client-id" not in town.heard.words[0].lower()


@here
async def test_a_policy_refuses_requests_with_a_status_and_other_connections_with_silence() -> None:
    async with open_town(policy="all-authenticated") as town:
        refused = await town.call(CLIENT, (VM, HTTP))
        assert refused.startswith(b"HTTP/1.1 403 ")
        assert b"unauthorized request from an unauthenticated client" in refused
        assert await town.call(CLIENT, (VM, RAW), b"\x00 raw") == b""
        assert (await town.call_meshed(RAW, b"\x00 raw")) == b"application"
        assert town.heard.words == [b"\x00 raw"]


@here
async def test_opaque_traffic_arrives_at_the_proxys_port_with_its_own_in_a_header() -> None:
    async with open_town() as town:
        assert await town.call_meshed(4143, b"EHLO pod", header=OPAQUE) == b"application"
        assert town.heard.words == [b"EHLO pod"]


@here
async def test_only_proxies_may_connect_to_the_proxys_own_port() -> None:
    async with open_town() as town:
        assert await town.call(CLIENT, (VM, 4143)) == b""  # plaintext
        assert await town.call_meshed(4143, b"EHLO pod") == b""  # no header
        assert await town.call_meshed(4143, b"EHLO pod", header=4143) == b""  # in circles
        assert town.heard.words == []


@here
async def test_an_address_that_is_not_the_machines_is_refused() -> None:
    async with open_town() as town:
        assert await town.call(CLIENT, ("10.77.0.21", HTTP)) == b""
        assert town.heard.words == []


@here
async def test_tls_of_the_application_passes_unchanged() -> None:
    async with open_town() as town:
        plain = await trio.open_tcp_stream(VM, RAW, local_address=CLIENT)
        with pytest.raises((trio.BrokenResourceError, OSError)):
            await town.pod.connect(plain, "own.example.org", URI, transport_header=False)
        (hello,) = town.heard.words
        assert hello[0] == 0x16 and b"own.example.org" in hello


@here
async def test_a_meshed_peer_is_reached_by_tls_and_gets_the_machines_first_name() -> None:
    async with open_town() as town:
        town.lookups.endpoints[PEER, 80] = MeshEndpoint(PEER, MESHED, POD, POD, False)
        assert (await town.call(VM, (PEER, 80))).endswith(b"application")
        assert town.heard.words[0] == f"{DNS} 0".encode()
        assert (
            f'response_total{{direction="outbound",target_addr="{PEER}:{MESHED}",tls="true",server_id="{POD}",'
            'status_code="200"} 1' in town.counts.render()
        )


@here
async def test_opaque_traffic_goes_to_the_peers_proxy_with_a_header() -> None:
    async with open_town() as town:
        town.lookups.endpoints[PEER, 5432] = MeshEndpoint(PEER, 5432, POD, POD, True)
        assert await town.call(VM, (PEER, 5432), b"\x00 startup") == b"application"
        assert town.heard.words == [f"{DNS} 5432".encode(), b"\x00 startup"]


@here
async def test_a_peer_with_another_identity_gets_no_request() -> None:
    async with open_town() as town:
        town.lookups.endpoints[PEER, 80] = MeshEndpoint(
            PEER, MESHED, "spiffe://cluster.local/ns/shop/sa/db", POD, False
        )
        refused = await town.call(VM, (PEER, 80))
        assert refused.startswith(b"HTTP/1.1 502 ")
        assert b"spiffe://cluster.local/ns/shop/sa/db was expected" in refused
        assert not any(b"GET" in word for word in town.heard.words)


@here
async def test_traffic_outside_of_the_mesh_passes_unchanged() -> None:
    async with open_town() as town:
        assert (await town.call(VM, (PEER, PLAIN))).endswith(b"application")
        assert town.heard.words[0].startswith(b"GET / HTTP/1.1\r\n")


@here
async def test_a_connection_without_a_redirect_is_refused() -> None:
    async with open_town():
        stream = await connect((PROXY, 4140))
        async with stream:
            assert await converse(stream, b"GET / HTTP/1.1\r\n\r\n") == b""
