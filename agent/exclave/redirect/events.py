"""What the kernel tells whoever listens when tables change: netlink messages, read. Pure.

Each message is about one object, and names the object's table in attribute 1; the last of a transaction tells who
made it. Sources: linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
DELETED_TABLE = 2  # NFT_MSG_DELTABLE
NEW_GENERATION = 15  # NFT_MSG_NEWGEN

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_PREFIX = _HEADER.size + 4  # and nfgenmsg

_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …
_AUTHOR_PID, _AUTHOR_NAME = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME


@dataclass(frozen=True)
class News:
    """What datagrams tell: the tables that changed, those of them that are gone, and who ended the last transaction.

    `author` is "" if none ended.
    """

    changed: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    author: str = ""


def read_news(datagrams: Iterable[bytes]) -> News:
    """Read what the kernel sent. What cannot be read is passed over: a change that matters is also looked for."""
    is_gone: dict[str, bool] = {}
    author = ""
    for kind, attributes in chain.from_iterable(map(_messages, datagrams)):
        if kind == NEW_GENERATION:
            name = _text(attributes.get(_AUTHOR_NAME, b""))
            author = f"{name}, process {int.from_bytes(attributes.get(_AUTHOR_PID, b''), 'big')}"
        elif _TABLE in attributes:
            is_gone[_text(attributes[_TABLE])] = kind == DELETED_TABLE  # which comes after all that was in it
    return News(frozenset(is_gone), frozenset(table for table, gone in is_gone.items() if gone), author)


def _messages(datagram: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Kind and attributes of each message about nftables."""
    at = 0
    while at + _PREFIX <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, at)
        if length < _PREFIX:
            return
        if kind >> 8 == SUBSYSTEM:
            yield kind & 0xFF, dict(_attributes(datagram[at + _PREFIX : at + length]))
        at += _aligned(length)


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, content[at + _ATTRIBUTE.size : at + length]  # without the flags for nesting and order
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode("utf-8", "replace")
