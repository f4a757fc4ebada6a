"""Parses the kernel's messages about nftables: changes and traces. Source: linux/netfilter/nf_tables.h. Pure."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from exclave.kit.netlink.messages import read_attributes, read_body, read_messages

SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
DELETED_TABLE = 2  # NFT_MSG_DELTABLE
NEW_GENERATION = 15  # NFT_MSG_NEWGEN

_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …
_AUTHOR_PID, _AUTHOR_NAME = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME

_TRACE = SUBSYSTEM << 8 | 17  # NFT_MSG_TRACE
_TRACE_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _POLICY = 1, 2, 3, 4, 5, 6, 16  # NFTA_TRACE_…
_POLICY_EVENT, _RULE_EVENT = 1, 3  # NFT_TRACETYPE_…
_VERDICTS = {0: "drop", 1: "accept", -1: "continue", -5: "return"}


@dataclass(frozen=True)
class Transaction:
    """One transaction: its author, the tables that it changed, and those of them that it removed."""

    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    author: str = ""


class TransactionReader:
    """Datagrams in, whole transactions out. Undecodable messages are skipped; the caller also polls.

    The last message of a transaction names its author, and may come in a later datagram. Before it, a table that is
    being replaced would appear removed.
    """

    def __init__(self) -> None:
        self._is_removed: dict[str, bool] = {}

    def receive(self, datagram: bytes) -> list[Transaction]:
        """The transactions that end in this datagram."""
        ended = []
        for kind, attributes in _messages(datagram):
            if kind == NEW_GENERATION:
                ended.append(self._end_transaction(attributes))
            elif _TABLE in attributes:
                self._is_removed[_text(attributes[_TABLE])] = kind == DELETED_TABLE  # comes after those of its objects
        return ended

    def forget(self) -> None:
        """Drop the transaction under way, after messages were missed."""
        self._is_removed = {}

    def _end_transaction(self, attributes: dict[int, bytes]) -> Transaction:
        name, pid = _text(attributes.get(_AUTHOR_NAME, b"")), _number(attributes.get(_AUTHOR_PID, b""))
        changed, self._is_removed = self._is_removed, {}
        removed = frozenset(table for table, is_removed in changed.items() if is_removed)
        return Transaction(frozenset(changed), removed, f"{name}, process {pid}")


def _messages(datagram: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    with suppress(ValueError):  # the rest is cut off
        for kind, body in read_messages(datagram):
            if kind >> 8 == SUBSYSTEM:
                yield kind & 0xFF, read_body(body)


# The trace of a packet


@dataclass(frozen=True)
class TraceEvent:
    """The verdict of a chain's rule, or of its policy (`handle` None), on a packet; `packet` identifies the packet."""

    packet: int
    table: str
    chain: str
    handle: int | None
    verdict: str


def parse_events(message: bytes) -> list[TraceEvent]:
    """The verdicts in a datagram; other messages are skipped. Raises ValueError if one is cut off."""
    found = [_event(body) for kind, body in read_messages(message) if kind == _TRACE]
    return [event for event in found if event is not None]


def _event(body: bytes) -> TraceEvent | None:
    found = read_body(body)
    kind = _number(found.get(_TYPE, b""))
    if kind not in (_POLICY_EVENT, _RULE_EVENT):
        return None  # the packet itself, or the end of a chain that was jumped to
    is_rule = kind == _RULE_EVENT
    code = dict(read_attributes(found.get(_VERDICT, b""))).get(1, b"") if is_rule else found.get(_POLICY, b"")
    verdict = _number(code, signed=True)
    return TraceEvent(
        _number(found.get(_ID, b"")),
        _text(found.get(_TRACE_TABLE, b"")),
        _text(found.get(_CHAIN, b"")),
        _number(found[_HANDLE]) if is_rule and _HANDLE in found else None,
        _VERDICTS.get(verdict, str(verdict)),
    )


def _number(value: bytes, *, signed: bool = False) -> int:
    return int.from_bytes(value, "big", signed=signed)


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode("utf-8", "replace")
