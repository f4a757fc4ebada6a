"""The bytes that linkerd2-proxies exchange, and those by which they detect a protocol. Pure.

Sources: linkerd2-proxy/linkerd/transport-header for opaque traffic between proxies; RFC 8446 section 4.1.2 and RFC 6066
section 3 for the server name in a ClientHello; include/uapi/linux/netfilter_ipv4.h for SO_ORIGINAL_DST.
"""

import re
import struct
from ipaddress import IPv4Address, IPv6Address

TRANSPORT_PROTOCOL = "transport.l5d.io/v1"  # ALPN of a connection that begins with a transport header
_PREFACE = TRANSPORT_PROTOCOL.encode() + b"\r\n\r\n"
HEADER_START = len(_PREFACE) + 4  # bytes of a header that hold the length of the rest
LONGEST_HEADER = 1024
TLS_HANDSHAKE = 0x16
_SERVER_NAME = 0
_METHOD = re.compile(rb"[A-Z]{3,20} \S* ?")
_MAYBE_METHOD = re.compile(rb"[A-Z]{0,20}|[A-Z]{3,20} .*", re.DOTALL)
ENOUGH = 16  # first bytes that are enough to detect HTTP/1
HTTP2_PREFACE = b"PRI * HTTP/2.0"


def encode_header(port: int) -> bytes:
    """The transport header for opaque traffic to a port."""
    message = b"\x08" + _varint(port)
    return _PREFACE + struct.pack(">I", len(message)) + message


def header_length(start: bytes) -> int:
    """The number of bytes that follow the first HEADER_START of a header. Raises ValueError."""
    if not start.startswith(_PREFACE) or len(start) != HEADER_START:
        raise ValueError("a transport header was expected")
    length: int = struct.unpack(">I", start[-4:])[0]
    if length > LONGEST_HEADER:
        raise ValueError(f"a transport header of {length} bytes is too long")
    return length


def decode_header(message: bytes) -> int:
    """The port in a header's message. Raises ValueError."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        value, position = read_varint(message, position)
        if tag & 7 == 0:
            if tag >> 3 == 1:
                return value
        elif tag & 7 == 2:
            position += value
        else:
            break
    raise ValueError("a transport header names no port")


def is_http1(start: bytes) -> bool:
    """True if a connection's first bytes look like an HTTP/1 request line."""
    return not start.startswith(HTTP2_PREFACE) and _METHOD.match(start) is not None


def may_be_http1(start: bytes) -> bool:
    """True if these may be the beginning of an HTTP/1 request line, so that more bytes are needed."""
    return len(start) < ENOUGH and _MAYBE_METHOD.fullmatch(start) is not None


def read_server_name(hello: bytes) -> str | None:
    """The server name in a TLS ClientHello's record; None if it has none. Raises EOFError if the record is cut off."""
    if len(hello) < 5 or len(hello) < 5 + int.from_bytes(hello[3:5], "big"):
        raise EOFError
    try:
        return _server_name(hello[5:])
    except (IndexError, UnicodeDecodeError, struct.error):
        return None


def read_original(sockaddr: bytes) -> tuple[str, int]:
    """Host and port of a sockaddr_in or sockaddr_in6."""
    port: int = struct.unpack_from(">H", sockaddr, 2)[0]
    if len(sockaddr) >= 28:
        return str(IPv6Address(sockaddr[8:24])), port
    return str(IPv4Address(sockaddr[4:8])), port


def _server_name(handshake: bytes) -> str | None:
    position = 4 + 2 + 32  # handshake header, version, random
    position += 1 + handshake[position]  # session id
    position += 2 + int.from_bytes(handshake[position : position + 2], "big")  # cipher suites
    position += 1 + handshake[position]  # compression methods
    end = position + 2 + int.from_bytes(handshake[position : position + 2], "big")
    position += 2
    while position + 4 <= end:
        kind, length = struct.unpack_from(">HH", handshake, position)
        position += 4
        if kind == _SERVER_NAME:
            size = int.from_bytes(handshake[position + 3 : position + 5], "big")
            return handshake[position + 5 : position + 5 + size].decode("ascii")
        position += length
    return None


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(message: bytes, position: int) -> tuple[int, int]:
    """A protobuf varint at a position, and the position after it. Raises ValueError if it is cut off."""
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a message is cut off")
