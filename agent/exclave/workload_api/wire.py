"""gRPC over HTTP/2, and the two protobuf messages of the SPIFFE Workload API that the proxy reads. Pure.

Sources: grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md; spiffe/spiffe, standards/workloadapi.proto:
`X509SVIDResponse { repeated X509SVID svids = 1; repeated bytes crl = 2; map<string, bytes> federated_bundles = 3; }`,
`X509SVID { string spiffe_id = 1; bytes x509_svid = 2; bytes x509_svid_key = 3; bytes bundle = 4; string hint = 5; }`.
A message frame is one byte (0: not compressed), the length as four bytes, big endian, and the message. All fields that
are read are length-delimited. Others are skipped, as protobuf requires.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from urllib.parse import quote

MAX_REQUEST = 64 * 1024
"""Bytes of a request message. The only request that is served is empty."""

SECURITY_HEADER = "workload.spiffe.io"
FETCH_X509_SVID = "/SpiffeWorkloadAPI/FetchX509SVID"


class StatusCode(IntEnum):
    """The gRPC status codes that are used here."""

    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


@dataclass(frozen=True)
class RpcStatus:
    """The status of a call that is not served; `message` is for a person who debugs the client."""

    code: StatusCode
    message: str


def check_call(headers: Mapping[str, str]) -> RpcStatus | None:
    """The status to refuse a call with; None if it is served."""
    if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
        return RpcStatus(
            StatusCode.INVALID_ARGUMENT, "a gRPC call was expected: POST with content-type application/grpc"
        )
    if headers.get(SECURITY_HEADER) != "true":
        return RpcStatus(StatusCode.INVALID_ARGUMENT, f"security header missing from request: {SECURITY_HEADER}: true")
    path = headers.get(":path", "")
    if path != FETCH_X509_SVID:
        return RpcStatus(StatusCode.UNIMPLEMENTED, f"only {FETCH_X509_SVID} is served here, not {path[:100]}")
    return None


def frame_message(message: bytes) -> bytes:
    """A message frame, for DATA frames."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Reads messages from the content of DATA frames."""

    def __init__(self) -> None:
        self._waiting = b""

    def receive(self, content: bytes) -> list[bytes]:
        """The messages that this content completes. Raises ValueError if one is compressed or too long."""
        self._waiting += content
        messages = []
        while len(self._waiting) >= 5:
            compressed, length = self._waiting[0], int.from_bytes(self._waiting[1:5], "big")
            if compressed:
                raise ValueError("compressed messages are not supported")
            if length > MAX_REQUEST:
                raise ValueError(f"a message of at most {MAX_REQUEST} bytes was expected, found {length}")
            if len(self._waiting) < 5 + length:
                break
            messages.append(self._waiting[5 : 5 + length])
            self._waiting = self._waiting[5 + length :]
        return messages


def response_headers() -> list[tuple[str, str]]:
    """The headers of a response."""
    return [(":status", "200"), ("content-type", "application/grpc")]


def trailers(status: RpcStatus) -> list[tuple[str, str]]:
    """The trailers of a call after its response headers were sent."""
    return [("grpc-status", str(int(status.code))), ("grpc-message", quote(status.message, safe=" :/.,-"))]


def trailers_only(status: RpcStatus) -> list[tuple[str, str]]:
    """The headers of a call that ends before any message."""
    return [*response_headers(), *trailers(status)]


_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}


@dataclass(frozen=True)
class X509Svid:
    """`certificates`: DER, leaf first, concatenated; `key`: PKCS#8 DER; `bundle`: DER roots, concatenated."""

    spiffe_id: str
    certificates: bytes
    key: bytes = field(repr=False)
    bundle: bytes = b""


def encode_response(svids: tuple[X509Svid, ...]) -> bytes:
    """An X509SVIDResponse."""
    return b"".join(_field(1, _encode_svid(svid)) for svid in svids)


def decode_response(message: bytes) -> tuple[X509Svid, ...]:
    """Read an X509SVIDResponse. Raises ValueError if it is not protobuf."""
    return tuple(_decode_svid(content) for number, content in _fields(message) if number == 1)


def _encode_svid(svid: X509Svid) -> bytes:
    contents = (svid.spiffe_id.encode(), svid.certificates, svid.key, svid.bundle)
    return b"".join(_field(number, content) for number, content in enumerate(contents, 1) if content)


def _decode_svid(message: bytes) -> X509Svid:
    found = dict(_fields(message))
    return X509Svid(found.get(1, b"").decode(), found.get(2, b""), found.get(3, b""), found.get(4, b""))


def _field(number: int, content: bytes) -> bytes:
    return _encode_number(number << 3 | _LENGTH_DELIMITED) + _encode_number(len(content)) + content


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of every length-delimited field. Raises ValueError."""
    at = 0
    while at < len(message):
        tag, at = _decode_number(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _decode_number(message, at)
            continue
        if kind == _LENGTH_DELIMITED:
            length, at = _decode_number(message, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"protobuf: wire type {kind} is unknown")
        if at + length > len(message):
            raise ValueError("protobuf: the message is cut off")
        if kind == _LENGTH_DELIMITED:
            yield tag >> 3, message[at : at + length]
        at += length


def _encode_number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("protobuf: a number is cut off or too long")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
