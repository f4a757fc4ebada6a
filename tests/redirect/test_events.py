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

OURS = frozenset({"exclave"})

CASES = {
    "nothing": (b"", News()),
    "a rule": (about("exclave"), News(OURS)),
    "a table that goes": (about("exclave") + about("exclave", DELETED_TABLE), News(OURS, OURS)),
    "a table that goes and comes again": (about("exclave", DELETED_TABLE) + about("exclave", NEW_TABLE), News(OURS)),
    "an element, with a name that needs filling up": (about("a", DELETED_ELEMENT), News(frozenset({"a"}))),
    "several tables at once": (
        about("exclave") + about("filter", NEW_TABLE) + about("exclave"),
        News(frozenset({"exclave", "filter"})),
    ),
    "the end of a transaction": (BY_NFT, News(author="nft, process 4711")),
    "a change and the end": (about("exclave") + BY_NFT, News(OURS, author="nft, process 4711")),
    "another subsystem's": (message(NEW_RULE, attribute(1, b"exclave\0"), subsystem=CONNTRACK), News()),
    "a nested attribute": (
        message(NEW_RULE, attribute(0x8004, b"x"), attribute(1, b"exclave\0")),
        News(OURS),
    ),
    "one that is cut off": (about("filter") + about("exclave")[:18], News(frozenset({"filter"}))),
    "a length of nothing": (bytes(64), News()),
}


@pytest.mark.parametrize(("datagram", "news"), CASES.values(), ids=CASES)
def test_what_is_told(datagram: bytes, news: News) -> None:
    assert read_news([datagram]) == news
    assert read_news([b"", datagram]) == news


def test_of_several_datagrams_the_last_word_counts() -> None:
    gone, back = about("exclave", DELETED_TABLE) + BY_NFT, about("exclave", NEW_TABLE)
    assert read_news([gone, back]) == News(OURS, author="nft, process 4711")
    assert read_news([back, gone]) == News(OURS, OURS, "nft, process 4711")


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_whatever_comes_is_read_to_its_end(noise: bytes, content: bytes) -> None:
    read_news([noise])
    read_news([message(NEW_RULE, noise)])
    assert "exclave" in read_news([about("exclave") + message(NEW_RULE, attribute(7, content)) + noise]).changed
