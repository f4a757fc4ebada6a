"""The source of the stand-in proxy's certificate: the Workload API, or a folder for pods.

A stream that ends is opened again after 0.1 to 1 s, as linkerd2-proxy does, and its last certificate stays in use. No
code is shared with the server, so that two implementations of SPIFFE's FetchX509SVID and of gRPC have to agree.
"""

import logging
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio
from cryptography.hazmat.primitives import serialization

from exclave.kit.formats.x509 import der_of, read_certificates
from exclave.kit.tasks.backoff import Backoff
from exclave_sandbox.standin.tls import ProxyCertificate, Tls
from exclave_sandbox.standin.wire import read_varint

log = logging.getLogger(__name__)
RECONNECT = Backoff(first=0.1, most=1.0, jitter=0.0)
REREAD = 1.0  # seconds between two reads of the folder

_HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("workload.spiffe.io", "true"),
]
_EMPTY_MESSAGE = b"\x00\x00\x00\x00\x00"
_BREAKS = (OSError, EOFError, ValueError, trio.BrokenResourceError, h2.exceptions.ProtocolError)


async def follow_workload_api(path: str, spiffe_id: str, tls: Tls, certified: trio.Event) -> NoReturn:
    """Load each certificate for `spiffe_id` that the Workload API at the unix socket `path` sends, for ever."""
    attempt = 0
    while True:
        try:
            async for pairs in fetch_svids(path):
                tls.load(pairs[spiffe_id])
                certified.set()
                attempt = 0
        except KeyError:
            log.warning("no matching SVID found for %s", spiffe_id)
        except _BREAKS as problem:
            log.warning("Workload API: %s", problem)
        await trio.sleep(RECONNECT.pause(attempt, 0.0))
        attempt += 1


async def follow_folder(folder: Path, tls: Tls, certified: trio.Event) -> NoReturn:
    """Load key.pem and chain.pem of a folder, and again whenever either changes, for ever."""
    loaded = (b"", b"")
    while True:
        try:
            found = (folder / "chain.pem").read_bytes(), (folder / "key.pem").read_bytes()
            if found != loaded:
                loaded = found
                tls.load(_read_pair(*found))
                certified.set()
        except (OSError, ValueError) as problem:  # half written: the next read finds the rest
            log.warning("%s: %s", folder, problem)
        await trio.sleep(REREAD)


async def fetch_svids(path: str) -> AsyncIterator[dict[str, ProxyCertificate]]:
    """Each message of one stream: certificates by SPIFFE ID. Raises OSError or EOFError when the stream ends."""
    async with await trio.open_unix_socket(path) as stream:
        http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        http.initiate_connection()
        call = http.get_next_available_stream_id()
        http.send_headers(call, _HEADERS)
        http.send_data(call, _EMPTY_MESSAGE, end_stream=True)
        pending = b""
        while True:
            await stream.send_all(http.data_to_send())
            received = await stream.receive_some(65536)
            if not received:
                raise EOFError("the connection ended")
            for event in http.receive_data(received):
                if isinstance(event, h2.events.DataReceived):
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    *messages, pending = split_messages(pending + event.data)
                    for message in messages:
                        yield read_svids(message)
                _check_going(event)


def _check_going(event: object) -> None:
    if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
        headers: dict[Any, Any] = dict(event.headers or ())
        status = headers.get("grpc-status", "0")
        if status != "0":
            raise EOFError(f"status {status}: {headers.get('grpc-message', '')}")
    elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
        raise EOFError("the stream ended")


def split_messages(received: bytes) -> Iterator[bytes]:
    """The whole messages in received bytes of a gRPC stream, and last the begun one."""
    while len(received) >= 5:
        size: int = struct.unpack_from(">I", received, 1)[0]
        if len(received) < 5 + size:
            break
        yield received[5 : 5 + size]
        received = received[5 + size :]
    yield received


def read_svids(message: bytes) -> dict[str, ProxyCertificate]:
    """The certificates of an X509SVIDResponse by SPIFFE ID. Raises ValueError."""
    found = {}
    for number, svid in _fields(message):
        if number == 1:
            fields = dict(_fields(svid))
            if 2 not in fields or 3 not in fields:
                raise ValueError("an SVID with chain and key was expected")
            found[fields.get(1, b"").decode()] = ProxyCertificate(tuple(split_certificates(fields[2])), fields[3])
    return found


def split_certificates(concatenated: bytes) -> Iterator[bytes]:
    """The certificates of a DER concatenation: each begins with its length (X.690, 8.1.3)."""
    while concatenated:
        if concatenated[0] != 0x30 or len(concatenated) < 4 or concatenated[1] != 0x82:
            raise ValueError("a certificate in DER was expected")
        end = 4 + int.from_bytes(concatenated[2:4], "big")
        if end > len(concatenated):
            raise ValueError("a certificate in DER was expected, and is cut off")
        yield concatenated[:end]
        concatenated = concatenated[end:]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each length-delimited field; this message has no others."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        if tag & 7 != 2:
            raise ValueError("an X509SVIDResponse was expected")
        size, position = read_varint(message, position)
        if position + size > len(message):
            raise ValueError("a message is cut off")
        yield tag >> 3, message[position : position + size]
        position += size


def _read_pair(chain: bytes, key: bytes) -> ProxyCertificate:
    secret = serialization.load_pem_private_key(key, password=None)
    der = secret.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return ProxyCertificate(tuple(der_of(certificate) for certificate in read_certificates(chain.decode())), der)
