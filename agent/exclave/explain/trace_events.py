"""Parses the kernel's trace events from netlink messages. Pure.

Source: Linux, include/uapi/linux/netfilter/nf_tables.h (`nft_trace_attributes`).
"""

from dataclasses import dataclass

from exclave.kit.host.netlink import read_attributes, read_body, read_messages

TRACE_TABLE = "exclave-trace"
"""The table with the rule that traces."""

_TRACE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _POLICY = 1, 2, 3, 4, 5, 6, 16
_POLICY_EVENT, _RULE_EVENT = 1, 3
_VERDICTS = {0: "drop", 1: "accept", -1: "continue", -5: "return"}


@dataclass(frozen=True)
class TraceEvent:
    """What a rule of a chain, or its policy (`handle` None), did to a packet; `packet` identifies the packet."""

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
    if kind == _RULE_EVENT:
        verdict = _signed(dict(read_attributes(found.get(_VERDICT, b""))).get(1, b""))
    else:
        verdict = _signed(found.get(_POLICY, b""))
    return TraceEvent(
        _number(found.get(_ID, b"")),
        _text(found.get(_TABLE, b"")),
        _text(found.get(_CHAIN, b"")),
        _number(found[_HANDLE]) if kind == _RULE_EVENT and _HANDLE in found else None,
        _VERDICTS.get(verdict, str(verdict)),
    )


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _signed(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
