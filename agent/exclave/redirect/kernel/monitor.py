"""Hearing of changes to our table as they happen: what `nft monitor` does, without a process for it.

Why not the program: it would be one more process for life, would have to be ended at every ending and be missed at
none, prints what it may have to cut short, and parses every rule of everybody. The kernel's own messages say in their
first attribute which table they are about, and the socket goes with the agent, however that ends.

Rules: a change of ours is told as well as one of others, so whoever is told looks, and does nothing if all is well.
Where messages may have been missed (the socket's buffer ran over, or it had to be opened anew) that counts as a
change. Where the kernel does not let us listen, that is logged, and tried again once a minute.
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
from exclave.redirect.kernel.nft_events import News, Reader

log = logging.getLogger(__name__)

TRY_EVERY = 60.0
"""Seconds between two attempts to listen."""

ROOM = 1 << 20
"""Bytes that the kernel may keep for us: some ten thousand changes, made at once by others."""

_SO_RCVBUFFORCE = 33
_GROUP = 7  # NFNLGRP_NFTABLES
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_MOST = 1 << 16  # bytes of one datagram
_AT_ONCE = 256  # datagrams, so that a storm of changes stops nobody else here


class Monitor:
    """Counts changes of one table; `is_listening` tells whether it hears any."""

    def __init__(self, table: str) -> None:
        self.changes = Latest(0)
        self.is_listening = Latest(False)
        self._author = ""
        self._table = table
        self._socket: socket.socket | None = None
        self._is_gone = False
        self._reader = Reader()

    def listen(self) -> None:
        """Begin to hear."""
        opened = None
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, ROOM)
            opened.bind((0, 0))
            opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError as problem:
            if opened is not None:
                opened.close()
            log.warning("redirect: changes by others are looked for, since the kernel tells of none: %s", problem)
            return
        opened.setblocking(False)
        self._socket = opened
        self.is_listening.set(True)

    async def keep(self) -> None:
        """Hear, for ever."""
        while True:
            if self._socket is None:
                await trio.sleep(TRY_EVERY)
                self.listen()
            else:
                await self._hear(self._socket)
            self._tell()  # there may have been changes that nobody has told of

    async def _hear(self, kernel: socket.socket) -> None:
        """Hear until messages were missed."""
        try:
            while True:
                await trio.lowlevel.wait_readable(kernel)
                for datagram in _waiting(kernel):
                    for news in self._reader.receive(datagram):
                        self._heed(news)
        except OSError as problem:
            if problem.errno == errno.ENOBUFS:
                _empty(kernel)
                self._reader.forget()
                return
            log.warning("redirect: the kernel no longer tells of changes: %s", problem)
            self.close()

    def _heed(self, news: News) -> None:
        if self._table in news.changed:
            self._is_gone = self._table in news.gone
            self._author = news.author
            self._tell()

    def _tell(self) -> None:
        self.changes.set(self.changes.value + 1)

    def take_author(self) -> str:
        """Who made the last change since this was asked; "" if that is not known."""
        author, self._author = self._author, ""
        return author

    def take_gone(self) -> bool:
        """Whether the table was removed since this was asked, and is not there: no need to look."""
        gone, self._is_gone = self._is_gone, False
        return gone

    def close(self) -> None:
        """Hear no more."""
        self.is_listening.set(False)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _waiting(kernel: socket.socket) -> Iterator[bytes]:
    """What has come."""
    for _ in range(_AT_ONCE):
        try:
            yield kernel.recv(_MOST)
        except BlockingIOError:
            return


def _empty(kernel: socket.socket) -> None:
    """Throw away what has come: once messages were missed, the kernel adds none, silently, until all were read."""
    while True:
        try:
            kernel.recv(_MOST)
        except OSError as problem:
            if problem.errno != errno.ENOBUFS:  # and so it is EAGAIN, or what the next reader will meet
                return


@asynccontextmanager
async def open_monitor(table: str) -> AsyncIterator[Monitor]:
    """Hear of changes of a table while open; nothing between opening and closing is missed without being told."""
    monitor = Monitor(table)
    monitor.listen()
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "rules' monitor", monitor.keep)
            yield monitor
            nursery.cancel_scope.cancel()
    finally:
        monitor.close()
