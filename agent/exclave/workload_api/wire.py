"""gRPC over HTTP/2: message frames, statuses, headers of a call. Pure.

Source: grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md. A message frame is one byte (0: not compressed), the
length as four bytes, big endian, and the message. A status is in the trailers, or in the headers if there are no
messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
