"""Counts changes to a table as they happen, from the kernel's netlink messages. Missed messages count as a change.

Our own changes count too, so the reader must read the table. Not `nft monitor`: that is another process to supervise
and end, it parses everybody's rules, and its output may be cut off.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exclave.kit.netlink.messages import NETFILTER
from exclave.kit.netlink.subscription import open_subscription
from exclave.kit.tasks.latest import Latest
from exclave.link.layout import OUR_TABLES
from exclave.redirect.kernel.nft_events import TransactionReader

_GROUP = 7  # NFNLGRP_NFTABLES


class Monitor:
    """Counts changes of one table, or of all tables of others. `is_listening`: whether the kernel reports them."""

    def __init__(self, table: str | None) -> None:
        self.changes = Latest(0)
        self.is_listening = Latest(False)
        self._author = ""
        self._table = table
        self._is_removed = False
        self._reader = TransactionReader()

    def receive(self, datagram: bytes) -> None:
        """Count the changes in a datagram."""
        for transaction in self._reader.receive(datagram):
            if self._table is None:
                if not transaction.changed <= set(OUR_TABLES):
                    self._count_change()
            elif self._table in transaction.changed:
                self._is_removed = self._table in transaction.removed
                self._author = transaction.author
                self._count_change()

    def miss(self) -> None:
        """Count a change: messages may have been missed."""
        self._reader.forget()
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


@asynccontextmanager
async def open_monitor(table: str | None) -> AsyncIterator[Monitor]:
    """Count changes of a table (None: of all tables of others) while open; missed messages count as a change."""
    monitor = Monitor(table)
    async with open_subscription(
        "rules' monitor", NETFILTER, (_GROUP,), monitor.receive, monitor.miss
    ) as monitor.is_listening:
        yield monitor
