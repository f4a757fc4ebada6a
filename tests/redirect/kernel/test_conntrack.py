"""Messages of connection tracking: which connections are half-open."""

import socket
from ipaddress import ip_address

import pytest

from exclave.kit.host.netlink import read_body, read_messages, write_attribute
from exclave.redirect.kernel.conntrack import HalfOpen, parse_half_open

NEW, GET, DELETE = 0x100, 0x101, 0x102
TUPLE, STATUS, ID, ZONE = 1, 3, 12, 18
CONFIRMED, ANSWERED, SOURCE_TRANSLATED, DESTINATION_TRANSLATED = 0x8, 0x2, 0x10, 0x20


def entry(source: str, destination: str, status: int = CONFIRMED, protocol: int = 6, zone: bytes = b"") -> bytes:
    """The body of a message as the kernel writes it."""
    version = ip_address(source).version
    first = 1 if version == 4 else 3
    ends = write_attribute(first, ip_address(source).packed) + write_attribute(
        first + 1, ip_address(destination).packed
    )
    ports = write_attribute(1, bytes([protocol])) + write_attribute(2, b"\x9c\x40") + write_attribute(3, b"\x1f\x90")
    parts = write_attribute(1, ends, nested=True) + write_attribute(2, ports, nested=True)
    attributes = [
        write_attribute(TUPLE, parts, nested=True),
        write_attribute(STATUS, status.to_bytes(4, "big")),
        write_attribute(ID, b"\1\2\3\4"),
    ]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return bytes([family, 0, 0, 0]) + b"".join(attributes) + (write_attribute(ZONE, zone) if zone else b"")


def parse(body: bytes, kind: int = NEW) -> list[tuple[str, str]]:
    found = parse_half_open(kind, body)
    return [] if found is None else [(found.source, found.destination)]


def test_an_unanswered_connection_is_read_with_its_addresses() -> None:
    assert parse(entry("10.77.0.20", "10.96.0.90")) == [("10.77.0.20", "10.96.0.90")]
    assert parse(entry("fd00:77::20", "fd00:42::9")) == [("fd00:77::20", "fd00:42::9")]


@pytest.mark.parametrize(
    "body",
    [
        entry("10.77.0.20", "10.96.0.90", CONFIRMED | ANSWERED),
        entry("10.77.0.20", "10.96.0.90", CONFIRMED | SOURCE_TRANSLATED),
        entry("10.77.0.20", "10.96.0.90", CONFIRMED | DESTINATION_TRANSLATED),
        entry("10.77.0.20", "10.96.0.53", protocol=17),
    ],
    ids=["answered", "its source is translated", "its destination is translated", "of another protocol"],
)
def test_any_other_connection_is_skipped(body: bytes) -> None:
    assert parse(body) == []


def test_a_message_of_another_kind_is_skipped() -> None:
    assert parse(entry("10.77.0.20", "10.96.0.90"), GET) == []


def test_a_connection_is_deleted_by_its_tuple_zone_and_id() -> None:
    body = entry("10.77.0.20", "10.96.0.90", zone=b"\0\7")
    found = parse_half_open(NEW, body)
    assert found is not None
    ((kind, sent),) = read_messages(found.delete_message())
    assert (kind, sent[0]) == (DELETE, socket.AF_INET)
    assert read_body(sent) == {key: value for key, value in read_body(body).items() if key in (TUPLE, ZONE, ID)}


def test_a_connection_without_addresses_is_read() -> None:
    body = bytes(4) + write_attribute(TUPLE, write_attribute(2, write_attribute(1, b"\6"), nested=True), nested=True)
    named = write_attribute(TUPLE, read_body(body)[TUPLE], nested=True)
    assert parse_half_open(NEW, body) == HalfOpen("", "", 0, named)


def test_a_message_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="cut off"):
        parse(entry("10.77.0.20", "10.96.0.90")[:-3])
