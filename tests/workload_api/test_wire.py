"""gRPC's frames and headers: what is served, what is refused, in which words."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.workload_api.wire import (
    MAX_REQUEST,
    MessageReader,
    RpcStatus,
    StatusCode,
    check_call,
    frame_message,
    response_headers,
    trailers,
    trailers_only,
)

CALL = {
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
        pytest.param({"content-type": None}, NOT_GRPC, id="nor one that does not say what it is"),
        pytest.param({"workload.spiffe.io": None}, NOT_SECURE, id="without the security header, as a forged one has"),
        pytest.param({"workload.spiffe.io": "True"}, NOT_SECURE, id="the security header is compared as it stands"),
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
    headers = {name: value for name, value in (CALL | changes).items() if value is not None}
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
            id="a length that nobody will send",
        ),
        pytest.param(b"\0" + (MAX_REQUEST + 1).to_bytes(4, "big"), "a message of at most 65536 bytes was expected, "
                     "found 65537", id="a byte too many"),
    ],
)  # fmt: skip
def test_a_frame_that_is_refused(content: bytes, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        MessageReader().receive(content)
    assert str(refused.value) == text


def test_the_longest_message_is_taken() -> None:
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
