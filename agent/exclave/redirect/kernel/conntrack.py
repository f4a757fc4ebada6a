"""Netlink messages of connection tracking: list half-open TCP connections, delete one. Pure.

Half-open: nobody has answered the connection, and nothing has translated it.
Sources: linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
"""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from exclave.kit.host.netlink import (
    ACKNOWLEDGE,
    DUMP,
    REQUEST,
    read_attributes,
    read_body,
    write_attribute,
    write_message,
)

_GET, _NEW, _DELETE = 0x101, 0x100, 0x102  # NFNL_SUBSYS_CTNETLINK, and IPCTNL_MSG_CT_…
_TUPLE, _STATUS, _ID, _ZONE, _STATUS_MASK = 1, 3, 12, 18, 26  # CTA_…
_IP, _PROTOCOL = 1, 2  # CTA_TUPLE_…
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # CTA_IP_…, of either family
_NUMBER = 1  # CTA_PROTO_NUM
_TCP = 6
_HAS_REPLY, _TRANSLATED = 0x2, 0x30  # IPS_…; either end

LIST_HALF_OPEN = write_message(
    _GET,
    REQUEST | DUMP,
    write_attribute(_STATUS, struct.pack("!I", 0)),
    write_attribute(_STATUS_MASK, struct.pack("!I", _HAS_REPLY)),
)
"""Asks for connections without a reply; kernels before 5.17 list all connections."""


@dataclass(frozen=True)
class HalfOpen:
    """A half-open TCP connection. `identity` are the attributes that name it to the kernel."""

    source: str
    destination: str
    family: int
    identity: bytes

    def delete_message(self) -> bytes:
        """The message that deletes it: to the kernel, its next packet is then a first packet."""
        return write_message(_DELETE, REQUEST | ACKNOWLEDGE, self.identity, family=self.family)


def parse_half_open(kind: int, body: bytes) -> HalfOpen | None:
    """The half-open connection in a message; None for any other. Raises ValueError if the message is cut off."""
    if kind != _NEW:
        return None
    found = read_body(body)
    status = int.from_bytes(found.get(_STATUS, b""), "big")
    parts = dict(read_attributes(found.get(_TUPLE, b"")))
    protocol = dict(read_attributes(parts.get(_PROTOCOL, b""))).get(_NUMBER)
    ends = dict(read_attributes(parts.get(_IP, b"")))
    if status & (_HAS_REPLY | _TRANSLATED) or protocol != bytes([_TCP]):
        return None
    source, destination = _address(ends, _SOURCES), _address(ends, _DESTINATIONS)
    named = [write_attribute(key, found[key], nested=key == _TUPLE) for key in (_TUPLE, _ZONE, _ID) if key in found]
    return HalfOpen(source, destination, body[0], b"".join(named))


def _address(ends: dict[int, bytes], kinds: tuple[int, int]) -> str:
    return next((str(ip_address(ends[kind])) for kind in kinds if kind in ends), "")
