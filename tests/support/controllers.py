"""As much of Linkerd's controllers as a real linkerd2-proxy asks of them: `python controllers.py ADDRESS KEYS`.

KEYS is a file with the mesh's anchor and its key. Policies say that everybody may come, by HTTP or not; no destination
is in the mesh, so that traffic passes as it is. gRPC over mutual TLS, on 8086 and 8090, one thread a connection.
Sources: linkerd2-proxy-api, proto/inbound.proto; linkerd/app/outbound/src/discover.rs and
linkerd/service-profiles/src/client.rs for what NotFound and InvalidArgument mean there.
"""

import socket
import ssl
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import h2.config  # noqa: E402
import h2.connection  # noqa: E402
import h2.events  # noqa: E402
import h2.exceptions  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: E402

from exclave.identity.names import destination_identity  # noqa: E402
from exclave.sandbox.pki import Authority, make_issuer, make_leaf  # noqa: E402

NOT_FOUND, INVALID_ARGUMENT = "5", "3"


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message; ours are short."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def labels(number: int) -> bytes:
    named = (("group", ""), ("kind", "default"), ("name", "all-unauthenticated"))
    return b"".join(field(number, field(1, key.encode()) + field(2, value.encode())) for key, value in named)


ANY_NETWORK = field(1, field(1, bytes([0x0D, 0, 0, 0, 0])))  # 0.0.0.0/0
ANYBODY = field(1, ANY_NETWORK) + field(2, field(1, b"")) + labels(3)
DETECT = field(1, field(1, bytes([8, 10])))  # within ten seconds
SERVER = field(1, DETECT) + bytes([3 << 3 | 2, len(ANYBODY)]) + ANYBODY + labels(4)


def context(keys: Path) -> ssl.SSLContext:
    """What the destination controller shows: both are one, behind one identity."""
    key = load_pem_private_key(keys.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = make_issuer(Authority(x509.load_pem_x509_certificate(keys.read_bytes()), key))
    leaf = make_leaf(issuer, [x509.DNSName(destination_identity("linkerd", "cluster.local"))], timedelta(hours=1), "d")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(leaf.key_pem + leaf.pem + issuer.pem)
        file.flush()
        made.load_cert_chain(file.name)
    return made


def answer(http: h2.connection.H2Connection, event: h2.events.RequestReceived) -> None:
    headers = [(":status", "200"), ("content-type", "application/grpc")]
    path = dict(event.headers or ())[":path"]
    if path.endswith("/WatchPort"):
        http.send_headers(event.stream_id, headers)
        http.send_data(event.stream_id, b"\0" + len(SERVER).to_bytes(4, "big") + SERVER)
        return
    status = NOT_FOUND if "OutboundPolicies" in path else INVALID_ARGUMENT
    http.send_headers(event.stream_id, [*headers, ("grpc-status", status)], end_stream=True)


def talk(plain: socket.socket, tls: ssl.SSLContext) -> None:
    try:
        with tls.wrap_socket(plain, server_side=True) as stream:
            config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
            http = h2.connection.H2Connection(config)
            http.initiate_connection()
            while True:
                stream.sendall(http.data_to_send())
                received = stream.recv(65536)
                if not received:
                    return
                for event in http.receive_data(received):
                    if isinstance(event, h2.events.RequestReceived):
                        answer(http, event)
                    elif isinstance(event, h2.events.DataReceived):
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    except (OSError, h2.exceptions.ProtocolError):
        return  # a proxy that ends


def listen(server: socket.socket, tls: ssl.SSLContext) -> None:
    while True:
        plain, _ = server.accept()
        threading.Thread(target=talk, args=(plain, tls), daemon=True).start()


def main() -> None:
    address, keys = sys.argv[1:]
    tls = context(Path(keys))
    for port in (8086, 8090):
        server = socket.create_server((address, port))
        threading.Thread(target=listen, args=(server, tls), daemon=True).start()
    print("up", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
