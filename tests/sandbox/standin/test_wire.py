"""Bytes between proxies: headers both ways, and what first bytes say, from OpenSSL's own hand."""

import socket
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_sandbox.standin.wire import (
    HEADER_START,
    LONGEST_HEADER,
    decode_header,
    encode_header,
    header_length,
    is_http1,
    may_be_http1,
    read_original,
    read_server_name,
)


@given(st.integers(1, 65535))
def test_a_header_has_its_port(port: int) -> None:
    header = encode_header(port)
    assert header.startswith(b"transport.l5d.io/v1\r\n\r\n")
    assert header_length(header[:HEADER_START]) == len(header) - HEADER_START
    assert decode_header(header[HEADER_START:]) == port


def test_unknown_fields_of_a_header_are_skipped() -> None:
    session, name = b"\x1a\x02\x08\x01", b"\x12\x03web"  # fields 3 and 2, as linkerd2-proxy writes them
    assert decode_header(name + session + b"\x08\xb8\x2a") == 5432


@pytest.mark.parametrize("message", [b"", b"\x12\x03web", b"\x08", b"\x08\xff", b"\x0d\x00\x00\x00\x00", b"\x12\x7f"])
def test_a_header_without_a_port_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"a transport header names no port|a message is cut off"):
        decode_header(message)


@given(st.binary(max_size=40))
def test_no_bytes_crash_the_reader_of_headers(message: bytes) -> None:
    try:
        assert decode_header(message) >= 0
    except ValueError as problem:
        assert str(problem) in ("a transport header names no port", "a message is cut off")


def test_a_malformed_or_endless_header_is_refused() -> None:
    start = encode_header(8080)[:HEADER_START]
    with pytest.raises(ValueError, match="a transport header was expected"):
        header_length(b"GET / HTTP/1.1\r\n\r\n" + bytes(HEADER_START - 18))
    with pytest.raises(ValueError, match="a transport header was expected"):
        header_length(start[:-1])
    with pytest.raises(ValueError, match=f"a transport header of {LONGEST_HEADER + 1} bytes is too long"):
        header_length(start[:-4] + struct.pack(">I", LONGEST_HEADER + 1))


@pytest.mark.parametrize(
    ("start", "is_http"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"OPTIONS * HTTP/1", True),
        (b"PROPFIND /a/very", True),  # cut off in the path
        (b"PRI * HTTP/2.0\r\n", False),
        (b"EHLO", False),
        (b"get / HTTP/1.1\r\n", False),
        (b"\x16\x03\x01", False),
        (b"", False),
    ],
)
def test_first_bytes_of_http(start: bytes, is_http: bool) -> None:
    assert is_http1(start) is is_http


@pytest.mark.parametrize(
    ("start", "may_be"),
    [(b"", True), (b"GE", True), (b"GET /", True), (b"GET / HTTP/1.1\r\n", False), (b"\x00", False), (b"Get", False)],
)
def test_first_bytes_that_may_become_http(start: bytes, may_be: bool) -> None:
    assert may_be_http1(start) is may_be


def client_hello(name: str | None) -> bytes:
    """A ClientHello as OpenSSL writes it."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["web.shop.svc.cluster.local", "a", None])
def test_the_name_in_a_client_hello(name: str | None) -> None:
    assert read_server_name(client_hello(name)) == name


def test_a_client_hello_that_is_cut_off_anywhere_is_reported() -> None:
    hello = client_hello("web.shop.svc.cluster.local")
    for size in range(len(hello)):
        with pytest.raises(EOFError):
            read_server_name(hello[:size])


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader_of_names(body: bytes) -> None:
    record = b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body
    assert read_server_name(record) is None or isinstance(read_server_name(record), str)


def test_original_destinations_are_read_from_the_kernels_addresses() -> None:
    four = struct.pack("<H", socket.AF_INET) + struct.pack(">H", 8080) + socket.inet_aton("10.77.0.20") + bytes(8)
    six = struct.pack("<H", socket.AF_INET6) + struct.pack(">HI", 53, 0) + socket.inet_pton(10, "fd00::1") + bytes(4)
    assert read_original(four) == ("10.77.0.20", 8080)
    assert read_original(six) == ("fd00::1", 53)
