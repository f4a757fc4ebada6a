"""First packets that come from outside, written into a link that is made for it: no other machine, no waiting."""

import fcntl
import os
import struct
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x4004_54CA, 0x0001, 0x1000
"""Source: Linux, include/uapi/linux/if_tun.h."""


def open_link_by_name(name: str) -> int:
    """Make a link in this thread's network namespace; what is written to the descriptor comes in there."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def first_packet(source: Address, destination: Address, port: int, source_port: int) -> bytes:
    """A TCP SYN with right checksums, or conntrack would ignore it."""
    segment = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = source.packed + destination.packed
    if source.version == 4:
        pseudo += struct.pack("!HH", 6, len(segment))
    else:
        pseudo += struct.pack("!II", len(segment), 6)
    segment = segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:]
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + source.packed + destination.packed + segment
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0) + source.packed + destination.packed
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + segment


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
