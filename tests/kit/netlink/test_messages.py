"""Netlink messages: what is written is read, and nothing is read past a cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.kit.netlink.messages import (
    REQUEST,
    read_attributes,
    read_body,
    read_messages,
    write_attribute,
    write_message,
)

ATTRIBUTES = some.dictionaries(some.integers(1, 0x3FFF), some.binary(max_size=40), max_size=6)


def written(attributes: dict[int, bytes], *, nested: bool = False) -> list[bytes]:
    return [write_attribute(kind, content, nested=nested) for kind, content in attributes.items()]


@given(ATTRIBUTES, ATTRIBUTES, some.booleans())
def test_what_is_written_is_read(first: dict[int, bytes], second: dict[int, bytes], nested: bool) -> None:
    datagram = write_message(0x101, REQUEST, *written(first, nested=nested)) + write_message(0x102, 0, *written(second))
    found = [(kind, read_body(body)) for kind, body in read_messages(datagram)]
    assert found == [(0x101, first), (0x102, second)]


@given(ATTRIBUTES.filter(len), some.data())
def test_a_message_that_is_cut_off_is_refused_and_those_before_it_are_read(
    attributes: dict[int, bytes], data: some.DataObject
) -> None:
    whole = write_message(0x101, 0, *written(attributes))
    cut = data.draw(some.integers(1, len(whole) - 1))
    messages = read_messages(whole + whole[:cut])
    assert next(messages)[0] == 0x101
    with pytest.raises(ValueError, match="cut off"):
        next(messages)


@given(some.binary(max_size=80))
def test_noise_is_read_to_its_end_or_refused(noise: bytes) -> None:
    for read in (read_messages, read_attributes):
        try:
            list(read(noise))
        except ValueError as problem:
            assert str(problem).endswith("is cut off")
