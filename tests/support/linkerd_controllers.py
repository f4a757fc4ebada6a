"""A program in place of Linkerd's destination and policy controllers.

    python linkerd_controllers.py ADDRESS POLICY                            look-ups over HTTP, for the stand-in proxy
    python linkerd_controllers.py ADDRESS POLICY CHAIN KEY [POD IDENTITY]   gRPC over TLS, for linkerd2-proxy

It listens on 8086 and 8090, prints `up`, and ends with its standard input. No destination is in the mesh but POD, an
IP:PORT, if it is given. POLICY is the default inbound policy, the answer for every port without a Server, or
`unrouted`: the answer for a port whose Server has routes that match no request.
Sources: linkerd2-proxy-api, proto/destination.proto, outbound.proto and inbound.proto.
"""

import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import h2.config  # noqa: E402
import h2.connection  # noqa: E402
import h2.events  # noqa: E402
import h2.exceptions  # noqa: E402
import trio  # noqa: E402
from cryptography import x509  # noqa: E402

from exclave.api.identity import destination_identity  # noqa: E402
from exclave_sandbox.linkerd.destination import LookupServer  # noqa: E402
from exclave_sandbox.linkerd.destination_table import FOLLOWED, DestinationTable  # noqa: E402
from exclave_sandbox.pki import Authority, make_leaf  # noqa: E402

PORTS = 8086, 8090
NOT_FOUND = "5"
CLUSTER = bytes([10, 42, 0, 0]), 16
ANYWHERE = bytes(4), 0


def controllers_command(address: str, policy: str = "all-unauthenticated", *certificate: Path | str) -> list[str]:
    """The argument list that runs this program; `certificate`: what `write_certificate` returned, and POD IDENTITY."""
    return [sys.executable, __file__, address, policy, *map(str, certificate)]


def write_certificate(issuer: Authority, folder: Path) -> tuple[Path, Path]:
    """Write chain and key of the controllers, which have one identity; their paths."""
    leaf = make_leaf(issuer, [x509.DNSName(destination_identity("linkerd", "cluster.local"))], timedelta(hours=1))
    chain, key = folder / "controllers.pem", folder / "controllers.key"
    chain.write_text(leaf.pem + issuer.pem)
    key.write_text(leaf.key_pem)
    return chain, key


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message; ours are short."""
    size = len(content)
    assert size < 1 << 14
    length = [size] if size < 128 else [size & 127 | 128, size >> 7]
    return bytes([number << 3 | 2, *length]) + content


def varint(number: int, value: int) -> bytes:
    """A number of a protobuf message."""
    encoded = []
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([number << 3, *encoded, value])


def labels(number: int, policy: str) -> bytes:
    named = (("group", ""), ("kind", "default"), ("name", policy))
    return b"".join(field(number, field(1, key.encode()) + field(2, value.encode())) for key, value in named)


def network(address: bytes, length: int) -> bytes:
    return field(1, field(1, bytes([0x0D, *address[::-1]])) + bytes([2 << 3, length]))


def server(policy: str) -> bytes:
    """The policy controller's answer for a port under a default policy.

    linkerd2: policy-controller/k8s/index/src/defaults.rs, and policy-controller/grpc/src/inbound.rs for the message.
    """
    authorizations = b""
    if policy not in ("deny", "unrouted"):
        networks = field(1, network(*(CLUSTER if policy.startswith("cluster-") else ANYWHERE)))
        any_identity = field(2, field(2, field(2, b"")))  # a suffix without parts
        client = any_identity if policy.endswith("-authenticated") else field(1, b"")
        authorizations = field(3, networks + field(2, client) + labels(3, policy))
    routes = field(3, field(1, field(1, b"nothing"))) if policy == "unrouted" else b""  # a route without rules
    detect = field(1, field(1, bytes([8, 10])) + routes)  # within ten seconds
    return field(1, detect) + authorizations + labels(4, policy)


def profile(pod: str, identity: str) -> bytes:
    """The destination controller's answer for a pod: IP:PORT, and the name in its certificate."""
    host, _, port = pod.partition(":")
    ip = field(1, bytes([0x0D, *reversed([int(part) for part in host.split(".")])]))
    name = field(1, identity.encode())
    return field(6, field(1, ip + varint(2, int(port))) + varint(3, 1) + field(5, field(1, name) + field(4, name)))


@dataclass(frozen=True)
class Answers:
    """Messages. Each is that of a watch, so its stream stays open."""

    policy: bytes
    pod: bytes = b""
    pod_profile: bytes = b""

    def respond(self, http: h2.connection.H2Connection, stream: int, path: str, request: bytes) -> None:
        """Answer a call."""
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        if path.endswith(".OutboundPolicies/Watch"):  # the proxy takes this as a policy without rules
            http.send_headers(stream, [*headers, ("grpc-status", NOT_FOUND)], end_stream=True)
            return
        message = b""  # an empty profile: nothing is known of the destination
        if path.endswith("/WatchPort"):
            message = self.policy
        elif self.pod and self.pod in request:
            message = self.pod_profile
        http.send_headers(stream, headers)
        http.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)


async def talk(tls: ssl.SSLContext, answers: Answers, accepted: trio.SocketStream) -> None:
    """Serve one connection of a proxy."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    http.initiate_connection()
    stream = trio.SSLStream(accepted, tls, server_side=True, https_compatible=True)
    paths: dict[int, str] = {}
    try:
        await stream.send_all(http.data_to_send())
        while data := await stream.receive_some(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    paths[event.stream_id] = dict(event.headers or ())[":path"]
                elif isinstance(event, h2.events.DataReceived):
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    # One short message: it is never split.
                    if path := paths.pop(event.stream_id, ""):
                        answers.respond(http, event.stream_id, path, event.data)
            await stream.send_all(http.data_to_send())
    except (trio.BrokenResourceError, h2.exceptions.ProtocolError):
        return  # a proxy that ends
    finally:
        await trio.aclose_forcefully(stream)


def empty_table() -> DestinationTable:
    """A cluster without any object, read whole."""
    table = DestinationTable("cluster.local")
    for resource in FOLLOWED:
        table.replace(resource, ())
    return table


async def serve(address: str, policy: str, *certificate: str) -> None:
    """Serve as both controllers until standard input ends."""
    handler: Callable[[trio.SocketStream], Awaitable[None]] = LookupServer(empty_table()).talk
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.load_cert_chain(*certificate[:2])
        tls.set_alpn_protocols(["h2"])
        pod, identity = certificate[2:] or ("", "")
        answers = Answers(server(policy), pod.encode(), profile(pod, identity) if pod else b"")
        handler = partial(talk, tls, answers)
    async with trio.open_nursery() as nursery:
        for port in PORTS:
            nursery.start_soon(trio.serve_listeners, handler, await trio.open_tcp_listeners(port, host=address))
        print("up", flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as commands:
            async for _ in commands:
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, *sys.argv[1:])
