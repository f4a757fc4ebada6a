"""Sends one request to the kernel and yields its answers."""

import os
import socket
import sys
from collections.abc import AsyncIterator, Collection

import trio

from exclave.kit.netlink.messages import DONE, ERROR, Message, split_datagram

_DATAGRAM = 1 << 16  # bytes of one datagram


def make_socket(protocol: int) -> trio.socket.SocketType:
    """A socket for requests; the kernel gives it a port at the first one. Raises OSError."""
    return trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)


async def request(
    kernel: trio.socket.SocketType, message: bytes, tolerated: Collection[int] = ()
) -> AsyncIterator[Message]:
    """The kernel's messages in reply. Raises OSError if it refuses with another errno than the tolerated ones."""
    await kernel.send(message)
    while True:
        for answer in split_datagram(await kernel.recv(_DATAGRAM)):
            if answer.kind == DONE:
                return
            if answer.kind == ERROR:
                number = -int.from_bytes(answer.body[:4], sys.byteorder, signed=True)
                if number and number not in tolerated:
                    raise OSError(number, os.strerror(number))
                return
            yield answer
