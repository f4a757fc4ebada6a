"""Receives the kernel's messages to netlink's multicast groups, as long as it is open."""

import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import trio

from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise

log = logging.getLogger(__name__)

RETRY_INTERVAL = 60.0  # seconds between two attempts to subscribe
BUFFER = 1 << 20  # bytes that the kernel may queue for us: about ten thousand changes at once

_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_DATAGRAM = 1 << 16  # bytes of one datagram
_BATCH = 256  # datagrams, so that a storm of changes does not block other tasks


class Subscription:
    """Gives each datagram to `receive`, and calls `missed` when some may be lost. `is_listening`: whether any come."""

    def __init__(
        self, protocol: int, groups: tuple[int, ...], receive: Callable[[bytes], None], missed: Callable[[], None]
    ) -> None:
        self.is_listening = Latest(False)
        self._protocol = protocol
        self._groups = groups
        self._receive = receive
        self._missed = missed
        self._socket: socket.socket | None = None

    def listen(self) -> None:
        """Subscribe. A refusal is logged."""
        opened = None
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
            opened.bind((0, 0))
            for group in self._groups:
                opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as problem:
            if opened is not None:
                opened.close()
            log.warning("redirect: changes by others are polled for, since the kernel reports none: %s", problem)
            return
        opened.setblocking(False)
        self._socket = opened
        self.is_listening.set(True)

    async def run(self) -> None:
        """Receive messages; subscribe again after a failure."""
        while True:
            if self._socket is None:
                await trio.sleep(RETRY_INTERVAL)
                self.listen()
            else:
                await self._receive_from(self._socket)
            self._missed()

    async def _receive_from(self, kernel: socket.socket) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(kernel)
                for datagram in _receive_waiting(kernel):
                    self._receive(datagram)
        except OSError as problem:
            if problem.errno == errno.ENOBUFS:
                _discard(kernel)
                return
            log.warning("redirect: the kernel no longer reports changes: %s", problem)
            self.close()

    def close(self) -> None:
        """Unsubscribe."""
        self.is_listening.set(False)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _receive_waiting(kernel: socket.socket) -> Iterator[bytes]:
    for _ in range(_BATCH):
        try:
            yield kernel.recv(_DATAGRAM)
        except BlockingIOError:
            return


def _discard(kernel: socket.socket) -> None:
    """Discard queued messages: after an overflow the kernel queues no more until all are read."""
    while True:
        try:
            kernel.recv(_DATAGRAM)
        except OSError as problem:
            if problem.errno != errno.ENOBUFS:  # EAGAIN; the next reader gets any other error, too
                return


@asynccontextmanager
async def open_subscription(
    name: str, protocol: int, groups: tuple[int, ...], receive: Callable[[bytes], None], missed: Callable[[], None]
) -> AsyncIterator[Latest[bool]]:
    """Receive the messages of these groups while open; yields whether the kernel reports them.

    `missed` is called when messages may have been missed: the reader must look for itself.
    """
    subscription = Subscription(protocol, groups, receive, missed)
    subscription.listen()
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, name, subscription.run)
            yield subscription.is_listening
            nursery.cancel_scope.cancel()
    finally:
        subscription.close()
