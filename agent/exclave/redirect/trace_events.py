"""What the kernel says of a traced packet, out of netlink messages. Pure.

Source: Linux, include/uapi/linux/netfilter/nf_tables.h (`nft_trace_attributes`), nfnetlink.h and netlink.h.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

TRACE_TABLE = "exclave-trace"
"""The table of the rule that has a packet traced."""

_TRACE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _POLICY = 1, 2, 3, 4, 5, 6, 16
_POLICY_EVENT, _RULE_EVENT = 1, 3
_VERDICTS = {0: "drop", 1: "accept", -1: "continue", -5: "return"}
_NESTED = 0x3FFF  # the two upper bits of an attribute's type are flags


@dataclass(frozen=True)
class TraceEvent:
    """What one chain's rule, or its policy (`handle` None), did to a packet; `packet` is the same for all of one."""

    packet: int
    table: str
    chain: str
    handle: int | None
    verdict: str


def parse_events(message: bytes) -> list[TraceEvent]:
    """The verdicts in a datagram from netlink; other messages say nothing. Raises ValueError if one is cut off."""
    return [event for body in _messages(message) if (event := _event(body)) is not None]


def _messages(data: bytes) -> Iterator[bytes]:
    while data:
        length, kind = struct.unpack_from("=IH", data) if len(data) >= 16 else (0, 0)
        if not 16 <= length <= len(data):
            raise ValueError("a netlink message is cut off")
        if kind == _TRACE:
            yield data[20:length]  # after nlmsghdr and nfgenmsg
        data = data[(length + 3) & ~3 :]


def _event(body: bytes) -> TraceEvent | None:
    found = dict(_attributes(body))
    kind = _number(found.get(_TYPE, b""))
    if kind not in (_POLICY_EVENT, _RULE_EVENT):
        return None  # the packet itself, or the end of a chain that was jumped to
    if kind == _RULE_EVENT:
        verdict = _signed(dict(_attributes(found.get(_VERDICT, b""))).get(1, b""))
    else:
        verdict = _signed(found.get(_POLICY, b""))
    return TraceEvent(
        _number(found.get(_ID, b"")),
        _text(found.get(_TABLE, b"")),
        _text(found.get(_CHAIN, b"")),
        _number(found[_HANDLE]) if kind == _RULE_EVENT and _HANDLE in found else None,
        _VERDICTS.get(verdict, str(verdict)),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("=HH", data) if len(data) >= 4 else (0, 0)
        if not 4 <= length <= len(data):
            raise ValueError("a netlink attribute is cut off")
        yield kind & _NESTED, data[4:length]
        data = data[(length + 3) & ~3 :]


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _signed(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
