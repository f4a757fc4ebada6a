"""Deletes half-open connections that began while our rules were absent, so that their next SYN is captured.

The kernel translates a connection at its first packet or never. It remembers an unanswered one for two minutes, in
which its repeated SYN and new connections with the same ports bypass the mesh. Failures are only logged.
"""

import errno
import logging
import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from exclave.kit.host.procfs import local_addresses
from exclave.kit.netlink.messages import (
    ACKNOWLEDGE,
    DUMP,
    NETFILTER,
    REQUEST,
    read_attributes,
    read_body,
    write_attribute,
    write_message,
)
from exclave.kit.netlink.request import make_socket, request

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds for all of it: a router may remember millions of connections

WAIT_FOR_REPLY = 0.5  # seconds until it counts as unanswered: less than the 1 s after which a SYN is repeated

# Sources: linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
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
"""Requests connections without a reply; kernels before 5.17 list all connections."""


@dataclass(frozen=True)
class HalfOpen:
    """A half-open TCP connection. `identity`: the attributes by which the kernel identifies it."""

    source: str
    destination: str
    family: int
    identity: bytes

    def delete_message(self) -> bytes:
        """The message that deletes it. To the kernel, its next packet is then a first packet."""
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


async def forget_half_open(addresses: Collection[str]) -> None:
    """Delete untranslated half-open TCP connections from or to an address of this machine, or one of `addresses`."""
    try:
        with trio.fail_after(TIMEOUT):
            count = await _forget(addresses)
    except (OSError, ValueError, trio.TooSlowError) as problem:
        why = str(problem) or "the kernel does not answer"
        log.warning("redirect: connections begun without rules may bypass the mesh for two minutes: %s", why)
        return
    if count:
        log.info("redirect: half-open connections deleted, since they began without rules: %d", count)


async def _forget(addresses: Collection[str]) -> int:
    with make_socket(NETFILTER) as kernel:
        own = local_addresses().union(addresses)
        waiting = {each for each in await _list(kernel) if each.source in own or each.destination in own}
        if waiting:
            await trio.sleep(WAIT_FOR_REPLY)
            waiting &= await _list(kernel)
        for each in waiting:
            async for _ in request(kernel, each.delete_message(), (errno.ENOENT,)):  # it may have ended meanwhile
                pass
        return len(waiting)


async def _list(kernel: trio.socket.SocketType) -> set[HalfOpen]:
    answers = request(kernel, LIST_HALF_OPEN)
    return {each async for one in answers if (each := parse_half_open(one.kind, one.body)) is not None}
