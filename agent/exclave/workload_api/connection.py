"""One client's connection, without its socket: bytes in, bytes out. Pure.

Rules: `receive` takes what arrived, `publish` the newest response, `take` gives what is to be sent. Every stream gets
the newest response once, as one message; one that was overtaken before its first byte went out is never sent. Flow
control is the client's: what does not fit its windows waits, whole messages of other streams are not held up by it.
What a client does wrong ends its own connection, never more (`is_over`). Source: RFC 9113; h2 does the framing.
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
"""Calls at once on one connection; a proxy makes one."""

MAX_UNFRAMED = 65536
"""Bytes without a whole frame in them: no honest client sends that many, and h2 would keep up to 16 MiB."""


@dataclass
class _Call:
    """One FetchX509SVID stream: what is still to be sent of the message under way, and which one went last."""

    reader: MessageReader = field(default_factory=MessageReader)
    asked: bool = False
    begun: bool = False
    sent: int = 0
    rest: bytes = b""


class WorkloadConnection:
    """The server's side of one connection. `denied` refuses every call with its reason."""

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
        """Take bytes from the client; none at all means that it has gone."""
        if not content:
            self.is_over = True
            return
        try:
            events = self._h2.receive_data(content)
            self._unframed = 0 if events else self._unframed + len(content)
            for event in events:
                self._handle(event)
        except (h2.exceptions.ProtocolError, UnicodeDecodeError, ValueError):
            # h2 has queued a GOAWAY where it can; nothing that this client says is believed from here on.
            self.is_over = True
        if self._unframed > MAX_UNFRAMED:
            self.is_over = True
        self._push()

    def publish(self, response: bytes) -> None:
        """Give every call this response (an encoded X509SVIDResponse), now and for calls to come."""
        self._response = response
        self._number += 1
        self._push()

    def close(self) -> None:
        """Say that no more will come: every call ends as unavailable, and the client connects again."""
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
        refusal = self._denied or check_call(headers)
        if refusal is None:
            self._calls[stream] = _Call()
        else:
            self._h2.send_headers(stream, trailers_only(refusal), end_stream=True)

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
        """Send each call what is new, as far as its windows go."""
        for stream, call in list(self._calls.items()):
            if self.is_over:
                return
            if call.asked and self._response:
                self._push_call(stream, call)

    def _push_call(self, stream: int, call: _Call) -> None:
        while call.rest or call.sent < self._number:
            if not call.rest:
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
                self._calls.pop(stream, None)  # the client has ended it meanwhile
                return
            call.rest = call.rest[room:]

    def _end(self, stream: int, refusal: RpcStatus) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        try:
            end = trailers(refusal) if call.begun else trailers_only(refusal)
            if call.rest and call.begun:
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)  # a message cannot be ended half-way
            else:
                self._h2.send_headers(stream, end, end_stream=True)
        except h2.exceptions.ProtocolError:
            return  # the client has ended it meanwhile
