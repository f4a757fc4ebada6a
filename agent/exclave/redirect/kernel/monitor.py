"""Counts changes to our table as they happen, from the kernel's netlink messages. Missed messages count as a change.

Our own changes count too, so the reader must read the table. Not `nft monitor`: that is another process to supervise
and end, it parses everybody's rules, and its output may be cut off.
"""

import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from exclave.kit.host.netlink import NETFILTER
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.redirect.kernel.nft_events import Transaction, TransactionReader

log = logging.getLogger(__name__)

RETRY_INTERVAL = 60.0  # seconds between two attempts to subscribe
BUFFER = 1 << 20  # bytes that the kernel may queue for us: about ten thousand changes at once

_SO_RCVBUFFORCE = 33
_GROUP = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_DATAGRAM = 1 << 16  # bytes of one datagram
_BATCH = 256  # datagrams, so that a storm of changes does not block other tasks


class Monitor:
    """Counts changes of one table. `is_listening`: whether the kernel reports them."""

    def __init__(self, table: str) -> None:
        self.changes = Latest(0)
        self.is_listening = Latest(False)
        self._author = ""
        self._table = table
        self._socket: socket.socket | None = None
        self._is_removed = False
        self._reader = TransactionReader()

    def listen(self) -> None:
        """Subscribe. A refusal is logged."""
        opened = None
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
            opened.bind((0, 0))
            opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
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
                await self._receive(self._socket)
            self._count_change()  # messages may have been missed

    async def _receive(self, kernel: socket.socket) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(kernel)
                for datagram in _receive_waiting(kernel):
                    for transaction in self._reader.receive(datagram):
                        self._apply(transaction)
        except OSError as problem:
            if problem.errno == errno.ENOBUFS:
                _discard(kernel)
                self._reader.forget()
                return
            log.warning("redirect: the kernel no longer reports changes: %s", problem)
            self.close()

    def _apply(self, transaction: Transaction) -> None:
        if self._table in transaction.changed:
            self._is_removed = self._table in transaction.removed
            self._author = transaction.author
            self._count_change()

    def _count_change(self) -> None:
        self.changes.set(self.changes.value + 1)

    def pop_author(self) -> str:
        """The author of the last change since the last call; "" if unknown."""
        author, self._author = self._author, ""
        return author

    def pop_removed(self) -> bool:
        """True if the last change since the last call removed the table: then it need not be read."""
        is_removed, self._is_removed = self._is_removed, False
        return is_removed

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
async def open_monitor(table: str) -> AsyncIterator[Monitor]:
    """Count changes of a table while open; missed messages count as a change."""
    monitor = Monitor(table)
    monitor.listen()
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "rules' monitor", monitor.run)
            yield monitor
            nursery.cancel_scope.cancel()
    finally:
        monitor.close()
