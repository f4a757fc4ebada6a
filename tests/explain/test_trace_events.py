"""The kernel's words on a traced packet, made as the kernel makes them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.explain.trace_events import TraceEvent, parse_events


def attribute(kind: int, value: bytes) -> bytes:
    padded = value + b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + padded


def message(*attributes: bytes, kind: int = 10 << 8 | 17) -> bytes:
    body = struct.pack("=BBH", 1, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def event(kind: int, *more: bytes, chain: str = "outbound") -> bytes:
    return message(
        attribute(1, b"exclave\0"),
        attribute(2, chain.encode() + b"\0"),
        attribute(4, struct.pack("!I", kind)),
        attribute(6, struct.pack("!I", 0xABCD)),
        *more,
    )


def verdict(code: int) -> bytes:
    return attribute(5 | 0x8000, attribute(1, struct.pack("!i", code)))  # nested, and says so


HANDLE = attribute(3, struct.pack("!Q", 26))


def test_a_rule_s_verdict_is_read_with_its_handle() -> None:
    for code, word in {0: "drop", 1: "accept", -1: "continue", -5: "return", -3: "-3"}.items():
        assert parse_events(event(3, HANDLE, verdict(code))) == [TraceEvent(0xABCD, "exclave", "outbound", 26, word)]


def test_a_policy_is_read_as_the_verdict_of_no_rule() -> None:
    assert parse_events(event(1, attribute(16, struct.pack("!I", 1)))) == [
        TraceEvent(0xABCD, "exclave", "outbound", None, "accept")
    ]


def test_several_messages_in_one_datagram_are_read_and_others_are_left_out() -> None:
    data = event(3, HANDLE, verdict(1)) + message(kind=10 << 8 | 5) + event(2) + event(3, HANDLE, verdict(0), chain="x")
    assert [each.chain for each in parse_events(data)] == ["outbound", "x"]
    assert parse_events(b"") == []


@given(some.integers(1, 59))
def test_a_message_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        parse_events(event(3, HANDLE, verdict(1))[:length])


def test_an_attribute_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        parse_events(message(struct.pack("=HH", 40, 1)))
    assert str(caught.value) == "a netlink attribute is cut off"
