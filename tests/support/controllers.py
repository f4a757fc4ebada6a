"""As much of Linkerd's controllers as a real linkerd2-proxy asks of them: `python controllers.py ADDRESS KEYS POLICY`.

KEYS is a file with the mesh's anchor and its key. POLICY is the default inbound policy, said of every port as Linkerd's
policy controller says it of a port that no Server selects, or `unrouted`, as it says of one whose Server has routes for
nothing that is ever asked; no destination is in the mesh, so that traffic passes as it
is. gRPC over mutual TLS, on 8086 and 8090, one thread a connection.
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

from exclave.api.identity import destination_identity  # noqa: E402
from exclave_sandbox.pki import Authority, make_issuer, make_leaf  # noqa: E402

NOT_FOUND, INVALID_ARGUMENT = "5", "3"


CLUSTER = bytes([10, 42, 0, 0]), 16
ANYWHERE = bytes(4), 0


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message; ours are short."""
    size = len(content)
    assert size < 1 << 14
    length = [size] if size < 128 else [size & 127 | 128, size >> 7]
    return bytes([number << 3 | 2, *length]) + content


def labels(number: int, policy: str) -> bytes:
    named = (("group", ""), ("kind", "default"), ("name", policy))
    return b"".join(field(number, field(1, key.encode()) + field(2, value.encode())) for key, value in named)


def network(address: bytes, length: int) -> bytes:
    return field(1, field(1, bytes([0x0D, *address[::-1]])) + bytes([2 << 3, length]))


def server(policy: str) -> bytes:
    """What the policy controller says of a port under a default policy.

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


def answer(http: h2.connection.H2Connection, event: h2.events.RequestReceived, policy: bytes) -> None:
    headers = [(":status", "200"), ("content-type", "application/grpc")]
    path = dict(event.headers or ())[":path"]
    if path.endswith("/WatchPort"):
        http.send_headers(event.stream_id, headers)
        http.send_data(event.stream_id, b"\0" + len(policy).to_bytes(4, "big") + policy)
        return
    status = NOT_FOUND if "OutboundPolicies" in path else INVALID_ARGUMENT
    http.send_headers(event.stream_id, [*headers, ("grpc-status", status)], end_stream=True)


def talk(plain: socket.socket, tls: ssl.SSLContext, policy: bytes) -> None:
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
                        answer(http, event, policy)
                    elif isinstance(event, h2.events.DataReceived):
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    except (OSError, h2.exceptions.ProtocolError):
        return  # a proxy that ends


def listen(listener: socket.socket, tls: ssl.SSLContext, policy: bytes) -> None:
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=talk, args=(plain, tls, policy), daemon=True).start()


def main() -> None:
    address, keys, policy = sys.argv[1:]
    tls = context(Path(keys))
    for port in (8086, 8090):
        listener = socket.create_server((address, port))
        threading.Thread(target=listen, args=(listener, tls, server(policy)), daemon=True).start()
    print("up", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
