"""Encodes and decodes the two protobuf messages of the SPIFFE Workload API that the proxy reads. Pure.

Source: spiffe/spiffe, standards/workloadapi.proto:
`X509SVIDResponse { repeated X509SVID svids = 1; repeated bytes crl = 2; map<string, bytes> federated_bundles = 3; }`,
`X509SVID { string spiffe_id = 1; bytes x509_svid = 2; bytes x509_svid_key = 3; bytes bundle = 4; string hint = 5; }`.
All these fields are length-delimited. Other fields are skipped, as protobuf requires.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

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
