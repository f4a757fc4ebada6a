"""What the kernel tells whoever listens when tables change: netlink messages, read. Pure.

Each message is about one object, and names the object's table in attribute 1; the last of a transaction tells who
made it. Sources: linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NEW_GENERATION = 15  # NFT_MSG_NEWGEN

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_PREFIX = _HEADER.size + 4  # and nfgenmsg

_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …
_AUTHOR_PID, _AUTHOR_NAME = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME


@dataclass(frozen=True)
class News:
    """What a datagram tells: which tables changed, and who ended a transaction; "" if none ended."""

    tables: frozenset[str]
    author: str


def read_news(datagram: bytes) -> News:
    """Read what the kernel sent. What cannot be read is passed over: a change that matters is also looked for."""
    tables, author = set(), ""
    for kind, attributes in _messages(datagram):
        if kind == NEW_GENERATION:
            name = _text(attributes.get(_AUTHOR_NAME, b""))
            author = f"{name}, process {int.from_bytes(attributes.get(_AUTHOR_PID, b''), 'big')}"
        elif _TABLE in attributes:
            tables.add(_text(attributes[_TABLE]))
    return News(frozenset(tables), author)


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
