"""The kernel's messages about nftables, and bytes that are no such messages."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.redirect.kernel.nft_events import Transaction, TransactionReader

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


def by_nft(*tables: str, removed: str = "") -> Transaction:
    return Transaction(frozenset(tables), frozenset({removed} - {""}), "nft, process 4711")


CASES = {
    "nothing": (b"", []),
    "a change that has not come to its end": (about("exclave"), []),
    "a rule": (about("exclave") + BY_NFT, [by_nft("exclave")]),
    "a table that is removed": (
        about("exclave") + about("exclave", DELETED_TABLE) + BY_NFT,
        [by_nft("exclave", removed="exclave")],
    ),
    "a table that is replaced": (
        about("exclave", DELETED_TABLE) + about("exclave", NEW_TABLE) + BY_NFT,
        [by_nft("exclave")],
    ),
    "an element, with a name that needs filling up": (about("a", DELETED_ELEMENT) + BY_NFT, [by_nft("a")]),
    "several tables at once": (
        about("exclave") + about("filter", DELETED_TABLE) + about("exclave") + BY_NFT,
        [by_nft("exclave", "filter", removed="filter")],
    ),
    "several transactions at once": (
        about("exclave", DELETED_TABLE) + BY_NFT + about("exclave", NEW_TABLE) + BY_NFT,
        [by_nft("exclave", removed="exclave"), by_nft("exclave")],
    ),
    "a transaction about no table": (BY_NFT, [by_nft()]),
    "another subsystem's": (message(NEW_RULE, attribute(1, b"exclave\0"), subsystem=CONNTRACK) + BY_NFT, [by_nft()]),
    "a nested attribute": (
        message(NEW_RULE, attribute(0x8004, b"x"), attribute(1, b"exclave\0")) + BY_NFT,
        [by_nft("exclave")],
    ),
    "one that is cut off": (about("filter") + BY_NFT + about("exclave")[:18], [by_nft("filter")]),
    "a length of nothing": (bytes(64), []),
}


@pytest.mark.parametrize(("datagram", "transactions"), CASES.values(), ids=CASES)
def test_transactions_are_read(datagram: bytes, transactions: list[Transaction]) -> None:
    assert TransactionReader().receive(datagram) == transactions


def test_a_table_that_is_being_replaced_does_not_count_as_removed() -> None:
    reader = TransactionReader()
    assert reader.receive(about("exclave", NEW_TABLE) + about("exclave", DELETED_TABLE)) == []
    assert reader.receive(about("exclave", NEW_TABLE)) == []
    assert reader.receive(BY_NFT) == [by_nft("exclave")]


def test_after_missed_messages_the_transaction_under_way_is_dropped() -> None:
    reader = TransactionReader()
    reader.receive(about("exclave", DELETED_TABLE))
    reader.forget()
    assert reader.receive(BY_NFT) == [by_nft()]


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_any_bytes_are_skipped(noise: bytes, content: bytes) -> None:
    TransactionReader().receive(noise)
    TransactionReader().receive(message(NEW_RULE, noise))
    (transactions, *_) = TransactionReader().receive(
        about("exclave") + message(NEW_RULE, attribute(7, content)) + BY_NFT + noise
    )
    assert transactions == by_nft("exclave")
