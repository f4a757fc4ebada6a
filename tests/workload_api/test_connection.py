"""Connections, frames and messages: h2 as the client, and Google's protobuf library."""

import random
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.workload_api.connection import (
    FETCH_X509_SVID,
    MAX_REQUEST,
    MAX_STREAMS,
    MAX_UNFRAMED,
    MessageReader,
    RpcStatus,
    StatusCode,
    WorkloadConnection,
    X509Svid,
    check_call,
    encode_response,
    frame_message,
    response_headers,
    trailers,
    trailers_only,
)

from .messages import Response, encode_by_google

CALL_HEADERS = {
    ":method": "POST",
    ":path": "/SpiffeWorkloadAPI/FetchX509SVID",
    "content-type": "application/grpc",
    "workload.spiffe.io": "true",
}
NOT_GRPC = RpcStatus(StatusCode.INVALID_ARGUMENT, "a gRPC call was expected: POST with content-type application/grpc")
NOT_SECURE = RpcStatus(StatusCode.INVALID_ARGUMENT, "security header missing from request: workload.spiffe.io: true")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        pytest.param({}, None, id="the proxy's call is served"),
        pytest.param({"content-type": "application/grpc+proto"}, None, id="the encoding may be named"),
        pytest.param({":method": "GET"}, NOT_GRPC, id="a GET is no gRPC call"),
        pytest.param({"content-type": "text/html"}, NOT_GRPC, id="a web browser's POST is none"),
        pytest.param({"content-type": None}, NOT_GRPC, id="without a content type"),
        pytest.param({"workload.spiffe.io": None}, NOT_SECURE, id="without the security header, as a forged one has"),
        pytest.param({"workload.spiffe.io": "True"}, NOT_SECURE, id="the security header is compared exactly"),
        pytest.param(
            {":path": "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID"},
            RpcStatus(
                StatusCode.UNIMPLEMENTED,
                "only /SpiffeWorkloadAPI/FetchX509SVID is served here, not "
                "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID",
            ),
            id="the service under the name that two proxy versions call",
        ),
        pytest.param(
            {":path": "/" + "x" * 300},
            RpcStatus(
                StatusCode.UNIMPLEMENTED, f"only /SpiffeWorkloadAPI/FetchX509SVID is served here, not /{'x' * 99}"
            ),
            id="a long path is not repeated whole",
        ),
    ],
)
def test_call(changes: dict[str, str | None], refusal: RpcStatus | None) -> None:
    headers = {name: value for name, value in (CALL_HEADERS | changes).items() if value is not None}
    assert check_call(headers) == refusal


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(1, 40)))
def test_messages_come_whole_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame_message, messages))
    reader, found = MessageReader(), []
    for cut in cuts:
        found += reader.receive(stream[:cut])
        stream = stream[cut:]
    found += reader.receive(stream)
    assert found == messages


def test_a_frame_is_a_flag_a_length_and_the_message() -> None:
    assert frame_message(b"abc") == b"\0\0\0\0\x03abc"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"\x01\0\0\0\0", "compressed messages are not supported", id="compressed"),
        pytest.param(
            b"\0\xff\xff\xff\xff",
            "a message of at most 65536 bytes was expected, found 4294967295",
            id="a length that no client sends",
        ),
        pytest.param(b"\0" + (MAX_REQUEST + 1).to_bytes(4, "big"), "a message of at most 65536 bytes was expected, "
                     "found 65537", id="a byte too many"),
    ],
)  # fmt: skip
def test_a_frame_that_is_refused(content: bytes, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        MessageReader().receive(content)
    assert str(refused.value) == text


def test_the_longest_message_is_accepted() -> None:
    assert MessageReader().receive(frame_message(b"x" * MAX_REQUEST)) == [b"x" * MAX_REQUEST]


@given(st.sampled_from(StatusCode), st.text(max_size=80))
def test_a_status_is_plain_ascii_and_comes_back_as_it_was(status: StatusCode, text: str) -> None:
    found = dict(trailers(RpcStatus(status, text)))
    assert found["grpc-status"] == str(status.value)
    assert found["grpc-message"].isascii() and found["grpc-message"].isprintable()
    assert unquote(found["grpc-message"]) == text


def test_a_call_refused_at_once_is_headers_alone() -> None:
    assert trailers_only(NOT_SECURE) == [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "3"),
        ("grpc-message", "security header missing from request: workload.spiffe.io: true"),
    ]
    assert trailers_only(NOT_SECURE)[:2] == response_headers()


svids = st.builds(X509Svid, st.text(max_size=200), *[st.binary(max_size=300)] * 3)


@given(st.lists(svids, max_size=3))
def test_google_reads_what_we_write(found: list[X509Svid]) -> None:
    assert Response.FromString(encode_response(tuple(found))) == encode_by_google(*found)


@given(st.lists(svids, max_size=3))
def test_we_write_the_bytes_that_google_writes(found: list[X509Svid]) -> None:
    assert encode_response(tuple(found)) == encode_by_google(*found).SerializeToString()


def test_the_key_does_not_show() -> None:
    assert "secret" not in repr(X509Svid("spiffe://d/x", b"c", b"secret"))


CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    (":path", FETCH_X509_SVID),
    ("content-type", "application/grpc"),
    ("workload.spiffe.io", "true"),
]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Client:
    """h2 as a client of one Connection, and what came back by stream."""

    def __init__(self, connection: WorkloadConnection, window: int | None = None) -> None:
        self.connection = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        if window is not None:
            self.h2.local_settings = h2.settings.Settings(
                initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self.h2.initiate_connection()
        self.readers: dict[int, MessageReader] = {}
        self.messages: dict[int, list[bytes]] = {}
        self.headers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.events: list[h2.events.Event] = []
        self.received = 0

    def exchange(self) -> None:
        """Let both sides talk until neither has anything to say. Received data is not acknowledged by itself."""
        while True:
            out = self.h2.data_to_send()
            if out:
                self.connection.receive(out)
            back = self.connection.data_to_send()
            if back:
                for event in self.h2.receive_data(back):
                    self._note(event)
            elif not out:
                return

    def call(self, headers: list[tuple[str, str]] = CALL, body: bytes = frame_message(b""), end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=end)
        self.exchange()
        return stream

    def allow(self, octets: int, stream: int | None = None) -> None:
        """Give the server more room."""
        self.h2.increment_flow_control_window(octets, stream)
        self.exchange()

    def _note(self, event: h2.events.Event) -> None:
        self.events.append(event)
        stream = getattr(event, "stream_id", None) or 0
        if isinstance(event, h2.events.DataReceived):
            self.received += len(event.data or b"")
            reader = self.readers.setdefault(stream, MessageReader())
            self.messages.setdefault(stream, []).extend(reader.receive(event.data or b""))
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            self.headers.setdefault(stream, {}).update((str(k), str(v)) for k, v in event.headers or ())
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(stream)

    def saw(self, kind: type[h2.events.Event]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def serving(response: bytes = b"first") -> WorkloadConnection:
    connection = WorkloadConnection()
    connection.publish(response)
    return connection


def test_a_call_gets_the_newest_response_and_stays_open_for_the_next() -> None:
    connection = serving()
    client = Client(connection)
    stream = client.call()
    assert client.messages[stream] == [b"first"]
    assert client.headers[stream] == {":status": "200", "content-type": "application/grpc"}
    connection.publish(b"second")
    client.exchange()
    assert client.messages[stream] == [b"first", b"second"]
    assert not client.ended and connection.streams == 1


def test_a_call_before_there_is_a_response_waits_without_a_word() -> None:
    connection = WorkloadConnection()
    client = Client(connection)
    stream = client.call()
    assert stream not in client.headers and connection.streams == 1
    connection.publish(b"first")
    client.exchange()
    assert client.messages[stream] == [b"first"]


def test_a_client_that_does_not_end_its_side_is_served_after_its_request() -> None:
    connection = serving()
    client = Client(connection)
    stream = client.call(body=b"\0\0\0", end=False)
    assert stream not in client.messages and connection.streams == 0
    client.h2.send_data(stream, b"\0\0")
    client.exchange()
    assert client.messages[stream] == [b"first"]


def test_every_stream_of_a_client_gets_every_response() -> None:
    connection = serving()
    client = Client(connection)
    streams = [client.call() for _ in range(3)]
    connection.publish(b"second")
    client.exchange()
    assert client.messages == {stream: [b"first", b"second"] for stream in streams}
    assert connection.streams == 3


def test_one_that_was_overtaken_before_its_first_byte_is_never_sent() -> None:
    connection = serving(b"a" * 100)
    client = Client(connection, window=0)
    stream = client.call()
    connection.publish(b"b" * 100)
    connection.publish(b"c" * 100)
    client.allow(1000, stream)
    assert client.messages[stream][-1] == b"c" * 100
    assert b"b" * 100 not in client.messages[stream]


def test_a_message_under_way_is_finished_before_the_newest_follows() -> None:
    connection = serving(b"a" * 100)
    client = Client(connection, window=0)
    stream = client.call()
    client.allow(50, stream)
    connection.publish(b"b" * 100)
    connection.publish(b"c" * 100)
    client.allow(1000, stream)
    assert client.messages[stream] == [b"a" * 100, b"c" * 100]


@given(st.integers(0, 300), st.lists(st.integers(1, 200), max_size=8))
def test_never_more_is_sent_than_the_client_allows(window: int, grants: list[int]) -> None:
    whole = 5 + 700
    connection = serving(b"x" * 700)
    client = Client(connection, window)
    stream = client.call()
    allowed = window
    assert client.received == min(whole, allowed)
    for grant in grants:
        client.allow(grant, stream)
        allowed += grant
        assert client.received == min(whole, allowed)


def test_the_connections_own_window_holds_as_well() -> None:
    connection = serving(b"x" * 65536)
    client = Client(connection, window=1 << 20)
    stream = client.call()
    assert client.received == 65535, "RFC 9113, 6.9.2: the connection's window starts there, whatever the streams' is"
    client.allow(10000)
    assert client.messages[stream] == [b"x" * 65536]


def test_a_stream_without_room_holds_up_no_other() -> None:
    connection = serving(b"x" * 100)
    client = Client(connection, window=0)
    stuck, free = client.call(), client.call()
    client.allow(1000, free)
    assert client.messages == {free: [b"x" * 100]}
    assert stuck not in client.messages


def test_a_ping_is_answered_with_its_own_content() -> None:
    client = Client(serving())
    client.h2.ping(b"12345678")
    client.exchange()
    answers = [event.ping_data for event in client.events if isinstance(event, h2.events.PingAckReceived)]
    assert answers == [b"12345678"]


def test_a_cancelled_call_is_no_longer_served() -> None:
    connection = serving()
    client = Client(connection)
    stream = client.call()
    client.h2.reset_stream(stream)
    client.exchange()
    connection.publish(b"second")
    client.exchange()
    assert client.messages[stream] == [b"first"] and connection.streams == 0
    assert client.messages[client.call()] == [b"second"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        pytest.param(
            CALL[:-1],
            frame_message(b""),
            "3",
            "security header missing from request: workload.spiffe.io: true",
            id="without the security header",
        ),
        pytest.param(
            [*CALL[:3], (":path", "/SpiffeWorkloadAPI/FetchX509Bundles"), *CALL[4:]],
            frame_message(b""),
            "12",
            "only /SpiffeWorkloadAPI/FetchX509SVID is served here, not /SpiffeWorkloadAPI/FetchX509Bundles",
            id="another method",
        ),
        pytest.param(CALL, b"\x01\0\0\0\0", "3", "compressed messages are not supported", id="a compressed message"),
    ],
)
def test_a_call_that_is_refused_ends_and_the_connection_lives(
    headers: list[tuple[str, str]], body: bytes, status: str, text: str
) -> None:
    connection = serving()
    client = Client(connection)
    stream = client.call(headers, body, end=False)
    assert client.headers[stream]["grpc-status"] == status
    assert client.headers[stream]["grpc-message"] == text
    assert stream in client.ended and stream not in client.messages
    assert client.messages[client.call()] == [b"first"]


def test_one_who_is_not_the_proxy_is_refused_whatever_it_asks() -> None:
    connection = WorkloadConnection(
        RpcStatus(StatusCode.PERMISSION_DENIED, "user 7 is not the proxy's, and only the proxy is served")
    )
    connection.publish(b"secret")
    client = Client(connection)
    stream = client.call()
    assert client.headers[stream]["grpc-status"] == "7"
    assert client.received == 0


def test_more_calls_than_a_proxy_makes_are_announced_and_refused() -> None:
    connection = serving()
    client = Client(connection)
    for _ in range(MAX_STREAMS):
        client.call()
    assert client.h2.remote_settings.max_concurrent_streams == MAX_STREAMS
    with pytest.raises(h2.exceptions.TooManyStreamsError):
        client.call()


def test_stopping_ends_calls_as_unavailable_so_that_the_client_comes_again() -> None:
    connection, waiting = serving(), WorkloadConnection()
    for one in (connection, waiting):
        client = Client(one)
        stream = client.call()
        one.close()
        client.exchange()
        assert client.headers[stream]["grpc-status"] == "14"
        assert client.headers[stream]["grpc-message"] == "the agent is stopping"
        assert client.saw(h2.events.ConnectionTerminated) and one.is_over


def test_stopping_in_the_middle_of_a_message_resets_its_stream() -> None:
    connection = serving(b"x" * 100)
    client = Client(connection, window=50)
    stream = client.call()
    connection.close()
    client.exchange()
    assert client.saw(h2.events.StreamReset) and stream not in client.ended


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(PREFACE + b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff", id="headers that cannot be decoded"),
        pytest.param(
            PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x01\0\0\0\0\0\x09x", id="data of a stream never opened"
        ),
        pytest.param(
            PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0", id="a window made no larger"
        ),
        pytest.param(b"", id="the end"),
    ],
)
def test_nonsense_ends_the_connection_that_it_came_by(nonsense: bytes) -> None:
    connection = serving()
    connection.receive(nonsense)
    assert connection.is_over and connection.streams == 0
    connection.publish(b"second")
    connection.close()


def test_bytes_that_never_become_a_frame_are_not_collected_for_ever() -> None:
    connection = serving()
    connection.receive(PREFACE + b"\0\0\0\x04\0\0\0\0\0")
    connection.receive(b"\xff\xff\xff\0\0\0\0\0\x01")  # a frame of 16 MiB begins
    for _ in range(MAX_UNFRAMED // 4096 + 1):
        connection.receive(b"\0" * 4096)
    assert connection.is_over


@settings(max_examples=200)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_raise_nothing_in_the_middle_of_a_call_or_at_once(content: bytes, called: bool) -> None:
    connection = serving()
    if called:
        Client(connection).call()
    connection.receive(content)
    connection.publish(b"second")
    connection.data_to_send()
    connection.close()
    connection.data_to_send()


@pytest.mark.parametrize("seed", range(60))
def test_an_honest_conversation_with_bytes_changed_raises_nothing(seed: int) -> None:
    draw = random.Random(seed)
    connection = serving(b"x" * 200)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for stream in (1, 3):
        client.send_headers(stream, CALL)
        client.send_data(stream, frame_message(b""), end_stream=True)
    client.ping(b"12345678")
    client.reset_stream(1)
    content = bytearray(client.data_to_send())
    for _ in range(draw.randrange(1, 6)):
        content[draw.randrange(24, len(content))] = draw.randrange(256)
    at = 0
    while at < len(content) and not connection.is_over:
        step = draw.randrange(1, 60)
        connection.receive(bytes(content[at : at + step]))
        connection.data_to_send()
        at += step
    connection.publish(b"y" * 200)
    connection.close()
