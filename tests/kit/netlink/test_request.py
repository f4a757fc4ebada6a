"""Requests to this kernel, in a network namespace of the test."""

import errno
import struct

import pytest

from exclave.kit.netlink.messages import ACKNOWLEDGE, DUMP, REQUEST, ROUTE, write_raw
from exclave.kit.netlink.request import make_socket, request
from support.network_namespace import in_network_namespace

GET_LINK, NEW_LINK, DELETE_LINK = 18, 16, 17  # RTM_…


def about_link(kind: int, flags: int, index: int = 0) -> bytes:
    return write_raw(kind, REQUEST | flags, struct.pack("=BxHiII", 0, 0, index, 0, 0))


@in_network_namespace()
async def test_a_listing_is_read_to_its_end() -> None:
    with make_socket(ROUTE) as kernel:
        for _ in range(2):  # nothing of the first answer is left for the second
            found = [answer.kind async for answer in request(kernel, about_link(GET_LINK, DUMP))]
            assert found == [NEW_LINK]  # lo


@in_network_namespace()
async def test_a_refusal_is_raised_unless_it_is_tolerated() -> None:
    message = about_link(DELETE_LINK, ACKNOWLEDGE, 4242)
    with make_socket(ROUTE) as kernel:
        with pytest.raises(OSError, match="No such device") as caught:
            _ = [answer async for answer in request(kernel, message)]
        assert caught.value.errno == errno.ENODEV
        assert [answer async for answer in request(kernel, message, (errno.ENODEV,))] == []
