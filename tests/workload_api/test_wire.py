"""gRPC frames and headers, and the two messages against protobuf's own encoder."""

from urllib.parse import unquote

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from hypothesis import given
from hypothesis import strategies as st

from exclave.workload_api.wire import (
    MAX_REQUEST,
    MessageReader,
    RpcStatus,
    StatusCode,
    X509Svid,
    check_call,
    decode_response,
    encode_response,
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


Field = descriptor_pb2.FieldDescriptorProto

svids = st.builds(X509Svid, st.text(max_size=200), *[st.binary(max_size=300)] * 3)


def make_class() -> type[message.Message]:
    """X509SVIDResponse as spiffe/spiffe's workloadapi.proto has it."""
    file = descriptor_pb2.FileDescriptorProto(name="workloadapi.proto", syntax="proto3")
    svid = file.message_type.add(name="X509SVID")
    kinds = (("spiffe_id", Field.TYPE_STRING), ("x509_svid", Field.TYPE_BYTES), ("x509_svid_key", Field.TYPE_BYTES))
    more = (("bundle", Field.TYPE_BYTES), ("hint", Field.TYPE_STRING))
    for number, (name, kind) in enumerate((*kinds, *more), 1):
        svid.field.add(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL)
    response = file.message_type.add(name="X509SVIDResponse")
    repeated = {"label": Field.LABEL_REPEATED}
    response.field.add(name="svids", number=1, type=Field.TYPE_MESSAGE, type_name=".X509SVID", **repeated)
    response.field.add(name="crl", number=2, type=Field.TYPE_BYTES, **repeated)
    entry = response.nested_type.add(name="FederatedBundlesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=Field.TYPE_BYTES, label=Field.LABEL_OPTIONAL)
    bundles = ".X509SVIDResponse.FederatedBundlesEntry"
    response.field.add(name="federated_bundles", number=3, type=Field.TYPE_MESSAGE, type_name=bundles, **repeated)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("X509SVIDResponse")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(found)
    return message_factory.MessageFactory(pool).GetPrototype(found)  # protobuf before 4.22


Response = make_class()


def googles(*found: X509Svid) -> message.Message:
    response = Response()
    for one in found:
        response.svids.add(  # type: ignore[attr-defined]
            spiffe_id=one.spiffe_id, x509_svid=one.certificates, x509_svid_key=one.key, bundle=one.bundle
        )
    return response


@given(st.lists(svids, max_size=3))
def test_google_reads_what_we_write(found: list[X509Svid]) -> None:
    assert Response.FromString(encode_response(tuple(found))) == googles(*found)


@given(st.lists(svids, max_size=3))
def test_we_write_the_bytes_that_google_writes(found: list[X509Svid]) -> None:
    assert encode_response(tuple(found)) == googles(*found).SerializeToString()


@given(st.lists(svids, max_size=3), st.binary(max_size=50), st.text(max_size=20))
def test_we_read_what_google_writes_and_skip_what_we_do_not_use(
    found: list[X509Svid], content: bytes, text: str
) -> None:
    response = googles(*found)
    response.crl.append(content)  # type: ignore[attr-defined]
    response.federated_bundles[text] = content  # type: ignore[attr-defined]
    for svid in response.svids:  # type: ignore[attr-defined]
        svid.hint = text
    assert decode_response(response.SerializeToString()) == tuple(found)


@given(svids)
def test_a_message_cut_off_anywhere_is_refused(found: X509Svid) -> None:
    whole = encode_response((found,))
    for length in range(1, len(whole)):
        with pytest.raises(ValueError, match=r"^protobuf: "):
            decode_response(whole[:length])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"\x0a", "protobuf: a number is cut off or too long", id="a tag and nothing more"),
        pytest.param(b"\xff" * 11, "protobuf: a number is cut off or too long", id="a number without end"),
        pytest.param(b"\x0a\x05abc", "protobuf: the message is cut off", id="a length beyond the end"),
        pytest.param(b"\x0b", "protobuf: wire type 3 is unknown", id="a group, which proto3 has not"),
        pytest.param(b"\x09\0\0\0", "protobuf: the message is cut off", id="eight bytes of which three came"),
    ],
)
def test_what_is_no_message_is_refused(content: bytes, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        decode_response(content)
    assert str(refused.value) == text


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(b"\x48\x96\x01", id="a number"),
        pytest.param(b"\x49" + b"x" * 8, id="eight bytes"),
        pytest.param(b"\x4d" + b"x" * 4, id="four bytes"),
        pytest.param(b"\x4a\x02hi", id="a text"),
    ],
)
def test_a_field_from_a_later_version_is_skipped(stranger: bytes) -> None:
    svid = X509Svid("spiffe://d/x", b"c", b"k", b"b")
    assert decode_response(stranger + encode_response((svid,)) + stranger) == (svid,)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(content: bytes) -> None:
    try:
        decode_response(content)
    except ValueError:
        return


def test_the_key_does_not_show() -> None:
    assert "secret" not in repr(X509Svid("spiffe://d/x", b"c", b"secret"))
