"""One client's connection, without its socket: gRPC over HTTP/2, and the two messages that are sent. Pure.

Sources: RFC 9113; grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md; spiffe/spiffe, standards/workloadapi.proto:
`X509SVIDResponse { repeated X509SVID svids = 1; repeated bytes crl = 2; map<string, bytes> federated_bundles = 3; }`,
`X509SVID { string spiffe_id = 1; bytes x509_svid = 2; bytes x509_svid_key = 3; bytes bundle = 4; string hint = 5; }`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from urllib.parse import quote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

MAX_REQUEST = 64 * 1024  # bytes of a request message; the only request that is served is empty

SECURITY_HEADER = "workload.spiffe.io"
FETCH_X509_SVID = "/SpiffeWorkloadAPI/FetchX509SVID"

_LENGTH_DELIMITED = 2

MAX_STREAMS = 16  # concurrent calls on one connection; a proxy makes one

MAX_UNFRAMED = 65536  # bytes without a complete frame: no correct client sends so many; h2 would buffer 16 MiB


class StatusCode(IntEnum):
    """The gRPC status codes that are used here."""

    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


@dataclass(frozen=True)
class RpcStatus:
    """The status of a call that is not served; `message` is for the person who debugs the client."""

    code: StatusCode
    message: str


def check_call(headers: Mapping[str, str]) -> RpcStatus | None:
    """The status with which a call is refused; None if it is served."""
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
    """The trailers of a call whose response headers were sent."""
    return [("grpc-status", str(int(status.code))), ("grpc-message", quote(status.message, safe=" :/.,-"))]


def trailers_only(status: RpcStatus) -> list[tuple[str, str]]:
    """The headers of a call that ends before any message."""
    return [*response_headers(), *trailers(status)]


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


def _encode_svid(svid: X509Svid) -> bytes:
    contents = (svid.spiffe_id.encode(), svid.certificates, svid.key, svid.bundle)
    return b"".join(_field(number, content) for number, content in enumerate(contents, 1) if content)


def _field(number: int, content: bytes) -> bytes:
    return _encode_number(number << 3 | _LENGTH_DELIMITED) + _encode_number(len(content)) + content


def _encode_number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@dataclass
class _Call:
    """One FetchX509SVID stream. `rest`: unsent part of the current message; `sent`: number of its response."""

    reader: MessageReader = field(default_factory=MessageReader)
    asked: bool = False
    begun: bool = False
    sent: int = 0
    rest: bytes = b""


class WorkloadConnection:
    """The server's side of one connection; an error of the client ends only this connection.

    With `denied`, every call ends with that status. `is_over`: nothing more is received or sent.
    """

    def __init__(self, denied: RpcStatus | None = None) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 16384,
            },
        )
        self._h2.initiate_connection()
        self._denied = denied
        self._calls: dict[int, _Call] = {}
        self._response = b""
        self._number = 0
        self._unframed = 0
        self.is_over = False

    @property
    def streams(self) -> int:
        """The number of open calls that are served."""
        return sum(call.asked for call in self._calls.values())

    def receive(self, content: bytes) -> None:
        """Process bytes from the client; empty bytes mean that it has closed the connection."""
        if not content:
            self.is_over = True
            return
        try:
            events = self._h2.receive_data(content)
            self._unframed = 0 if events else self._unframed + len(content)
            for event in events:
                self._handle(event)
        except (h2.exceptions.ProtocolError, UnicodeDecodeError, ValueError):
            # h2 has queued a GOAWAY if possible. Further bytes of this client are ignored.
            self.is_over = True
        if self._unframed > MAX_UNFRAMED:
            self.is_over = True
        self._push()

    def publish(self, response: bytes) -> None:
        """Send this response (an encoded X509SVIDResponse) on every call, now and on later calls."""
        self._response = response
        self._number += 1
        self._push()

    def close(self) -> None:
        """End every call as unavailable, so that the client connects again."""
        for stream in list(self._calls):
            self._end(stream, RpcStatus(StatusCode.UNAVAILABLE, "the agent is stopping"))
        if not self.is_over:
            self._h2.close_connection()
        self.is_over = True

    def data_to_send(self) -> bytes:
        """Bytes that must be sent to the client now."""
        return self._h2.data_to_send()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        elif isinstance(event, h2.events.DataReceived):
            self._read(event)
        elif isinstance(event, h2.events.StreamEnded):
            call = self._calls.get(event.stream_id or 0)
            if call is not None:
                call.asked = True
        elif isinstance(event, h2.events.StreamReset):
            self._calls.pop(event.stream_id or 0, None)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.is_over = True

    def _begin(self, event: h2.events.RequestReceived) -> None:
        stream = event.stream_id or 0
        headers = {str(name): str(value) for name, value in event.headers or ()}
        status = self._denied or check_call(headers)
        if status is None:
            self._calls[stream] = _Call()
        else:
            self._h2.send_headers(stream, trailers_only(status), end_stream=True)

    def _read(self, event: h2.events.DataReceived) -> None:
        stream = event.stream_id or 0
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        call = self._calls.get(stream)
        if call is None:
            return
        try:
            if call.reader.receive(event.data or b""):
                call.asked = True
        except ValueError as problem:
            self._end(stream, RpcStatus(StatusCode.INVALID_ARGUMENT, str(problem)))

    def _push(self) -> None:
        """Send the newest response on each call, as far as its flow control windows allow."""
        for stream, call in list(self._calls.items()):
            if self.is_over:
                return
            if call.asked and self._response:
                self._push_call(stream, call)

    def _push_call(self, stream: int, call: _Call) -> None:
        while call.rest or call.sent < self._number:
            if not call.rest:  # so a response that was replaced before its first byte is never sent
                call.rest, call.sent = frame_message(self._response), self._number
            try:
                if not call.begun:
                    self._h2.send_headers(stream, response_headers())
                    call.begun = True
                room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                if room <= 0:
                    return
                self._h2.send_data(stream, call.rest[:room])
            except h2.exceptions.ProtocolError:
                self._calls.pop(stream, None)  # the client has ended the stream in the meantime
                return
            call.rest = call.rest[room:]

    def _end(self, stream: int, status: RpcStatus) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        try:
            end = trailers(status) if call.begun else trailers_only(status)
            if call.rest and call.begun:
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)  # trailers cannot follow a part of a message
            else:
                self._h2.send_headers(stream, end, end_stream=True)
        except h2.exceptions.ProtocolError:
            return  # the client has ended the stream in the meantime
