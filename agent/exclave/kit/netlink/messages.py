"""Messages of netlink. Sources: linux/netlink.h, linux/netfilter/nfnetlink.h. Pure.

A datagram has messages; a message has a subsystem's header and attributes; an attribute has bytes or attributes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

ROUTE, NETFILTER = 0, 12  # protocol numbers of the sockets: NETLINK_ROUTE (links, addresses, rules), NETLINK_NETFILTER
# Flags of a message: NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_DUMP, NLM_F_CREATE.
REQUEST, ACKNOWLEDGE, EXCLUSIVE, DUMP, CREATE = 0x1, 0x4, 0x200, 0x300, 0x400
ERROR, DONE = 2, 3  # kinds without a subsystem: NLMSG_ERROR, whose body begins with an errno, and NLMSG_DONE

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, kind, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_TYPE, _NESTED = 0x3FFF, 0x8000  # the upper bits of a type are flags for nesting and byte order


@dataclass(frozen=True)
class Message:
    """One message. `kind`: a subsystem's number times 256, plus its own. `port`: of the socket that caused it, or 0."""

    kind: int
    port: int
    body: bytes


def split_datagram(datagram: bytes) -> Iterator[Message]:
    """The messages of a datagram. Raises ValueError if one is cut off."""
    while datagram:
        is_whole = len(datagram) >= _HEADER.size
        length, kind, _, _, port = _HEADER.unpack_from(datagram) if is_whole else (0, 0, 0, 0, 0)
        if not _HEADER.size <= length <= len(datagram):
            raise ValueError("a netlink message is cut off")
        yield Message(kind, port, datagram[_HEADER.size : length])
        datagram = datagram[_aligned(length) :]


def read_messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message. Raises ValueError if one is cut off."""
    for message in split_datagram(datagram):
        yield message.kind, message.body


def read_attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each attribute. Raises ValueError if cut off."""
    while content:
        length, kind = _ATTRIBUTE.unpack_from(content) if len(content) >= _ATTRIBUTE.size else (0, 0)
        if not _ATTRIBUTE.size <= length <= len(content):
            raise ValueError("a netlink attribute is cut off")
        yield kind & _TYPE, content[_ATTRIBUTE.size : length]
        content = content[_aligned(length) :]


def read_body(body: bytes) -> dict[int, bytes]:
    """The attributes of a message's body, after the subsystem's header. Raises ValueError if cut off."""
    return dict(read_attributes(body[4:]))


def write_message(kind: int, flags: int, *attributes: bytes, family: int = 0) -> bytes:
    """A message of the netfilter family; `family` is an address family's number, 0 for all of them."""
    return write_raw(kind, flags, bytes([family, 0, 0, 0]) + b"".join(attributes))


def write_raw(kind: int, flags: int, body: bytes) -> bytes:
    """A message with this body, which begins with the subsystem's header."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def write_attribute(kind: int, content: bytes, *, nested: bool = False) -> bytes:
    """An attribute, padded."""
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind | (_NESTED if nested else 0))
    return head + content + bytes(_aligned(len(content)) - len(content))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
