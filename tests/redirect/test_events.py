"""The kernel's messages about nftables: what they name, and that nothing in them is taken on trust."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.redirect.events import News, read_news

NFTABLES, CONNTRACK = 10, 1
NEW_TABLE, DELETED_TABLE, NEW_RULE, DELETED_ELEMENT, GENERATION = 0, 2, 6, 14, 15


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def message(kind: int, *attributes: bytes, subsystem: int = NFTABLES) -> bytes:
    body = b"\1\0\0\0" + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), subsystem << 8 | kind, 0, 0, 0) + body


def about(table: str, kind: int = NEW_RULE) -> bytes:
    return message(kind, attribute(1, table.encode() + b"\0"), attribute(2, b"chain\0"))


BY_NFT = message(GENERATION, attribute(1, b"\0\0\0\7"), attribute(2, (4711).to_bytes(4, "big")), attribute(3, b"nft\0"))

CASES = {
    "nothing": (b"", News(frozenset(), "")),
    "a rule": (about("exclave"), News(frozenset({"exclave"}), "")),
    "a table that goes": (about("exclave", DELETED_TABLE), News(frozenset({"exclave"}), "")),
    "an element, with a name that needs filling up": (about("a", DELETED_ELEMENT), News(frozenset({"a"}), "")),
    "several tables at once": (
        about("exclave") + about("filter", NEW_TABLE) + about("exclave"),
        News(frozenset({"exclave", "filter"}), ""),
    ),
    "the end of a transaction": (BY_NFT, News(frozenset(), "nft, process 4711")),
    "a change and the end": (about("exclave") + BY_NFT, News(frozenset({"exclave"}), "nft, process 4711")),
    "another subsystem's": (message(NEW_RULE, attribute(1, b"exclave\0"), subsystem=CONNTRACK), News(frozenset(), "")),
    "a nested attribute": (
        message(NEW_RULE, attribute(0x8004, b"x"), attribute(1, b"exclave\0")),
        News(frozenset({"exclave"}), ""),
    ),
    "one that is cut off": (about("filter") + about("exclave")[:18], News(frozenset({"filter"}), "")),
    "a length of nothing": (bytes(64), News(frozenset(), "")),
}


@pytest.mark.parametrize(("datagram", "news"), CASES.values(), ids=CASES)
def test_what_is_told(datagram: bytes, news: News) -> None:
    assert read_news(datagram) == news


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_whatever_comes_is_read_to_its_end(noise: bytes, content: bytes) -> None:
    read_news(noise)
    read_news(message(NEW_RULE, noise))
    assert "exclave" in read_news(about("exclave") + message(NEW_RULE, attribute(7, content)) + noise).tables
