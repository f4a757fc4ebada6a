"""Messages of netlink's netfilter family. Sources: linux/netlink.h, linux/netfilter/nfnetlink.h. Pure.

A datagram has messages; a message has a subsystem's header and attributes; an attribute has bytes or attributes.
"""

import struct
from collections.abc import Iterator

NETFILTER = 12  # the protocol number of the family's sockets
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300  # flags of a message: NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP
ERROR, DONE = 2, 3  # kinds without a subsystem: NLMSG_ERROR, whose body begins with an errno, and NLMSG_DONE

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, kind, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_TYPE, _NESTED = 0x3FFF, 0x8000  # the upper bits of a type are flags for nesting and byte order


def read_messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind (subsystem's number times 256, plus its own) and body of each message. Raises ValueError if cut off."""
    while datagram:
        length, kind = _HEADER.unpack_from(datagram)[:2] if len(datagram) >= _HEADER.size else (0, 0)
        if not _HEADER.size <= length <= len(datagram):
            raise ValueError("a netlink message is cut off")
        yield kind, datagram[_HEADER.size : length]
        datagram = datagram[_aligned(length) :]


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
    """A message; `family` is an address family's number, 0 for all of them."""
    content = bytes([family, 0, 0, 0]) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(content), kind, flags, 0, 0) + content


def write_attribute(kind: int, content: bytes, *, nested: bool = False) -> bytes:
    """An attribute, padded."""
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind | (_NESTED if nested else 0))
    return head + content + bytes(_aligned(len(content)) - len(content))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
