"""gRPC as it lies in HTTP/2: message frames, statuses, the headers of a call. Pure.

Source: grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md. A message is one byte (0: not compressed), its length
as four bytes, big endian, and the message; a status is trailers, or headers alone if nothing was sent before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import quote

MAX_REQUEST = 64 * 1024
"""Bytes of a request message; the one request we serve is empty."""

SECURITY_HEADER = "workload.spiffe.io"
FETCH_X509_SVID = "/SpiffeWorkloadAPI/FetchX509SVID"


class StatusCode(IntEnum):
    """The gRPC status codes that we answer with."""

    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


@dataclass(frozen=True)
class RpcStatus:
    """A call that is not served: status and a text for whoever debugs the client."""

    status: StatusCode
    message: str


def check_call(headers: Mapping[str, str]) -> RpcStatus | None:
    """Whether a call is one that is served; None means yes."""
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
    """A message as it goes into DATA frames."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Takes DATA apart into messages; raises ValueError for what we refuse."""

    def __init__(self) -> None:
        self._waiting = b""

    def receive(self, content: bytes) -> list[bytes]:
        """Messages that this content completes."""
        self._waiting += content
        messages = []
        while len(self._waiting) >= 5:
            compressed, length = self._waiting[0], int.from_bytes(self._waiting[1:5], "big")
            if compressed:
                raise ValueError("compressed messages are not understood")
            if length > MAX_REQUEST:
                raise ValueError(f"a message of at most {MAX_REQUEST} bytes was expected, found {length}")
            if len(self._waiting) < 5 + length:
                break
            messages.append(self._waiting[5 : 5 + length])
            self._waiting = self._waiting[5 + length :]
        return messages


def response_headers() -> list[tuple[str, str]]:
    """The head of an answer that will carry messages."""
    return [(":status", "200"), ("content-type", "application/grpc")]


def trailers(refusal: RpcStatus) -> list[tuple[str, str]]:
    """The end of a call that has begun."""
    return [("grpc-status", str(int(refusal.status))), ("grpc-message", quote(refusal.message, safe=" :/.,-"))]


def trailers_only(refusal: RpcStatus) -> list[tuple[str, str]]:
    """The whole of a call that is refused at once."""
    return [*response_headers(), *trailers(refusal)]
