"""Linkerd's destination and policy controllers, as far as a proxy must hear to pass connections on, also while they are
away: every destination is nobody's, every port is open to all; what they say stays said, as in a watch.

    python watched_controllers.py ADDRESS CHAIN KEY        gRPC over TLS, for linkerd2-proxy
    python watched_controllers.py ADDRESS                  look-ups over HTTP, for the stand-in

Messages are few enough to be written out. Sources: linkerd2-proxy-api, proto/destination.proto, outbound.proto and
inbound.proto; the proxy takes an outbound policy that is not found for one without rules.
"""

import ssl
import sys
from functools import partial

import h2.config
import h2.connection
import h2.events
import trio

DETECT = bytes.fromhex("0a060a040a02080a")  # Server{protocol: ProxyProtocol{detect: Detect{timeout: 10 s}}}
NOT_FOUND = "5"


def server() -> bytes:
    """A Server that lets everybody in: Authz{networks: [0.0.0.0/0], authentication: {permit: unauthenticated}}."""
    network = _field(1, _field(1, b"\x0d\x00\x00\x00\x00"))  # Network{net: IPNetwork{ip: IPAddress{ipv4: 0}}}
    authentication = _field(2, _field(1, b""))  # Authn{unauthenticated: PermitUnauthenticated{}}
    name = _field(1, b"all-unauthenticated")  # Metadata{default}
    label = _field(1, b"name") + _field(2, b"default:all-unauthenticated")
    return DETECT + _field(3, _field(1, network) + authentication + _field(4, name)) + _field(4, label)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def answer(http: h2.connection.H2Connection, stream: int, path: str) -> None:
    """What a controller says to a question; the stream stays open, as a watch does."""
    headers = [(":status", "200"), ("content-type", "application/grpc")]
    if path.endswith(".OutboundPolicies/Watch"):
        http.send_headers(stream, [*headers, ("grpc-status", NOT_FOUND)], end_stream=True)
        return
    message = server() if path.endswith("/WatchPort") else b""  # an empty profile says nothing
    http.send_headers(stream, headers)
    http.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)


async def talk(tls: ssl.SSLContext, accepted: trio.SocketStream) -> None:
    """One connection of a proxy."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    http.initiate_connection()
    stream = trio.SSLStream(accepted, tls, server_side=True)
    try:
        await stream.send_all(http.data_to_send())
        while data := await stream.receive_some(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    answer(http, event.stream_id, dict(event.headers)[":path"])
                elif isinstance(event, h2.events.DataReceived):
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            await stream.send_all(http.data_to_send())
    except (trio.BrokenResourceError, ssl.SSLError):
        return


async def talk_plainly(stream: trio.SocketStream) -> None:
    """One look-up of the stand-in: none of the mesh's."""
    async with stream:
        try:
            if await stream.receive_some(65536):
                await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        except trio.BrokenResourceError:
            return


async def serve(address: str, *certificate: str) -> None:
    """Be both controllers, for ever."""
    handler = talk_plainly
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
        tls.set_alpn_protocols(["h2"])
        handler = partial(talk, tls)  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        for port in (8086, 8090):
            listeners = await trio.open_tcp_listeners(port, host=address)
            nursery.start_soon(trio.serve_listeners, handler, listeners)
        print("up", flush=True)


if __name__ == "__main__":
    trio.run(serve, *sys.argv[1:])
