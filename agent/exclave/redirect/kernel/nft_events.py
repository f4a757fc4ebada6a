"""What the kernel tells whoever listens when tables change: netlink messages, read. Pure.

Each message is about one object, and names the object's table in attribute 1; the last of a transaction tells who
made it. A transaction may come in several datagrams, and be read in the middle of: what replaces a table would then
look as if it removed it, so a transaction counts once its last message has come.
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
class News:
    """What a transaction did: the tables that it changed, those of them that are gone now, and who made it."""

    changed: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    author: str = ""


class Reader:
    """Datagrams in, whole transactions out. What cannot be read is passed over: who must not miss any looks, too."""

    def __init__(self) -> None:
        self._is_gone: dict[str, bool] = {}

    def receive(self, datagram: bytes) -> list[News]:
        """The transactions that have come to their end with this datagram."""
        ended = []
        for kind, attributes in _messages(datagram):
            if kind == NEW_GENERATION:
                ended.append(self._take(attributes))
            elif _TABLE in attributes:
                self._is_gone[_text(attributes[_TABLE])] = kind == DELETED_TABLE  # comes after all that was in it
        return ended

    def forget(self) -> None:
        """Begin anew, after messages were missed."""
        self._is_gone = {}

    def _take(self, attributes: dict[int, bytes]) -> News:
        name, pid = _text(attributes.get(_AUTHOR_NAME, b"")), int.from_bytes(attributes.get(_AUTHOR_PID, b""), "big")
        is_gone, self._is_gone = self._is_gone, {}
        gone = frozenset(table for table, gone in is_gone.items() if gone)
        return News(frozenset(is_gone), gone, f"{name}, process {pid}")


def _messages(datagram: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Kind and attributes of each message about nftables."""
    with suppress(ValueError):  # the rest is cut off
        for kind, body in read_messages(datagram):
            if kind >> 8 == SUBSYSTEM:
                yield kind & 0xFF, read_body(body)


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode("utf-8", "replace")
