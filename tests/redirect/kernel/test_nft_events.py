"""The kernel's messages about nftables, and bytes that are no such messages."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.redirect.kernel.nft_events import TraceEvent, Transaction, TransactionReader, parse_events

NFTABLES, CONNTRACK = 10, 1
NEW_TABLE, DELETED_TABLE, NEW_SET, NEW_RULE, DELETED_ELEMENT, GENERATION, TRACE = 0, 2, 5, 6, 14, 15, 17


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


# The trace of a packet.


def event(kind: int, *more: bytes, chain: str = "outbound") -> bytes:
    return message(
        TRACE,
        attribute(1, b"exclave\0"),
        attribute(2, chain.encode() + b"\0"),
        attribute(4, struct.pack("!I", kind)),
        attribute(6, struct.pack("!I", 0xABCD)),
        *more,
    )


def verdict(code: int) -> bytes:
    return attribute(5 | 0x8000, attribute(1, struct.pack("!i", code)))  # nested, with the flag for it


HANDLE = attribute(3, struct.pack("!Q", 26))


def test_a_rule_s_verdict_is_read_with_its_handle() -> None:
    for code, word in {0: "drop", 1: "accept", -1: "continue", -5: "return", -3: "-3"}.items():
        assert parse_events(event(3, HANDLE, verdict(code))) == [TraceEvent(0xABCD, "exclave", "outbound", 26, word)]


def test_a_policy_is_read_as_the_verdict_of_no_rule() -> None:
    assert parse_events(event(1, attribute(16, struct.pack("!I", 1)))) == [
        TraceEvent(0xABCD, "exclave", "outbound", None, "accept")
    ]


def test_several_messages_in_one_datagram_are_read_and_others_are_left_out() -> None:
    data = event(3, HANDLE, verdict(1)) + message(NEW_SET) + event(2) + event(3, HANDLE, verdict(0), chain="x")
    assert [each.chain for each in parse_events(data)] == ["outbound", "x"]
    assert parse_events(b"") == []


@given(st.integers(1, 59))
def test_a_message_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        parse_events(event(3, HANDLE, verdict(1))[:length])


def test_an_attribute_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        parse_events(message(TRACE, struct.pack("=HH", 40, 1)))
    assert str(caught.value) == "a netlink attribute is cut off"
