"""Parses the netlink messages that the kernel sends when nftables change. Pure.

Each message is about one object, and names the object's table in attribute 1. The last message of a transaction names
its author. A transaction may come in several datagrams: in the middle of one, a table that is being replaced looks
removed. So a transaction is reported only when its last message has come.
Source: linux/netfilter/nf_tables.h.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from exclave.kit.host.netlink import read_body, read_messages

SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
DELETED_TABLE = 2  # NFT_MSG_DELTABLE
NEW_GENERATION = 15  # NFT_MSG_NEWGEN

_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …
_AUTHOR_PID, _AUTHOR_NAME = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME


@dataclass(frozen=True)
class Transaction:
    """One transaction: the tables that it changed, those of them that it removed, and its author."""

    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    author: str = ""


class TransactionReader:
    """Datagrams in, whole transactions out. Undecodable messages are skipped; the caller also polls."""

    def __init__(self) -> None:
        self._is_removed: dict[str, bool] = {}

    def receive(self, datagram: bytes) -> list[Transaction]:
        """The transactions that end in this datagram."""
        ended = []
        for kind, attributes in _messages(datagram):
            if kind == NEW_GENERATION:
                ended.append(self._end_transaction(attributes))
            elif _TABLE in attributes:
                self._is_removed[_text(attributes[_TABLE])] = kind == DELETED_TABLE  # it comes after the objects in it
        return ended

    def forget(self) -> None:
        """Drop the transaction under way, after messages were missed."""
        self._is_removed = {}

    def _end_transaction(self, attributes: dict[int, bytes]) -> Transaction:
        name, pid = _text(attributes.get(_AUTHOR_NAME, b"")), int.from_bytes(attributes.get(_AUTHOR_PID, b""), "big")
        changed, self._is_removed = self._is_removed, {}
        removed = frozenset(table for table, is_removed in changed.items() if is_removed)
        return Transaction(frozenset(changed), removed, f"{name}, process {pid}")


def _messages(datagram: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Kind and attributes of each message about nftables."""
    with suppress(ValueError):  # the rest is cut off
        for kind, body in read_messages(datagram):
            if kind >> 8 == SUBSYSTEM:
                yield kind & 0xFF, read_body(body)


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode("utf-8", "replace")
