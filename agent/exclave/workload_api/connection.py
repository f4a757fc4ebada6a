"""One client's connection, without its socket: bytes in, bytes out. Pure.

Every call gets the newest response, as one message. What a client does wrong ends its own connection only.
Source: RFC 9113 (HTTP/2); h2 does the framing.
"""

from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from exclave.workload_api.wire import (
    MessageReader,
    RpcStatus,
    StatusCode,
    check_call,
    frame_message,
    response_headers,
    trailers,
    trailers_only,
)

MAX_STREAMS = 16
"""Concurrent calls on one connection; a proxy makes one."""

MAX_UNFRAMED = 65536
"""Bytes without a complete frame. No correct client sends that many, and h2 would buffer up to 16 MiB."""


@dataclass
class _Call:
    """One FetchX509SVID stream: `rest` of the current message is not sent yet, `sent` is the number of its response."""

    reader: MessageReader = field(default_factory=MessageReader)
    asked: bool = False
    begun: bool = False
    sent: int = 0
    rest: bytes = b""


class WorkloadConnection:
    """The server's side of one connection. With `denied`, every call ends with that status.

    `is_over`: nothing more is received or sent.
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
        """Calls that are open and served."""
        return sum(call.asked for call in self._calls.values())

    def receive(self, content: bytes) -> None:
        """Process bytes from the client; empty ones mean that it has closed the connection."""
        if not content:
            self.is_over = True
            return
        try:
            events = self._h2.receive_data(content)
            self._unframed = 0 if events else self._unframed + len(content)
            for event in events:
                self._handle(event)
        except (h2.exceptions.ProtocolError, UnicodeDecodeError, ValueError):
            # h2 has queued a GOAWAY if it could. Further bytes of this client are ignored.
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
        """Bytes to send to the client now."""
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
        """Send each call the newest response, as far as its flow control windows allow."""
        for stream, call in list(self._calls.items()):
            if self.is_over:
                return
            if call.asked and self._response:
                self._push_call(stream, call)

    def _push_call(self, stream: int, call: _Call) -> None:
        while call.rest or call.sent < self._number:
            if not call.rest:  # so a response that a newer one has replaced before its first byte is never sent
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
                self._calls.pop(stream, None)  # the client has ended the stream meanwhile
                return
            call.rest = call.rest[room:]

    def _end(self, stream: int, status: RpcStatus) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        try:
            end = trailers(status) if call.begun else trailers_only(status)
            if call.rest and call.begun:
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)  # trailers cannot follow half a message
            else:
                self._h2.send_headers(stream, end, end_stream=True)
        except h2.exceptions.ProtocolError:
            return  # the client has ended the stream meanwhile
