"""Recognises the kernel's messages about the private link. Sources: rtnetlink(7), linux/rtnetlink.h. Pure."""

from ipaddress import ip_interface

from exclave.kit.netlink.messages import Message, read_attributes
from exclave.link.layout import LINK
from exclave.link.plan import MARK, link_addresses

GROUPS = (1, 5, 9, 12)  # RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_IFINFO

_LINKS, _ADDRESSES = (16, 17), (20, 21)  # RTM_NEWLINK, RTM_DELLINK; RTM_NEWADDR, RTM_DELADDR
_LINK_HEADER, _ADDRESS_HEADER = 16, 8  # bytes of ifinfomsg and ifaddrmsg
_HARDWARE, _NAME = 1, 3  # IFLA_ADDRESS, IFLA_IFNAME
_ADDRESS = 1  # IFA_ADDRESS

_OURS = frozenset(ip_interface(address).ip.packed for address in (*link_addresses(with_ipv6=True), "::1"))
_MARK = bytes.fromhex(MARK.replace(":", ""))
_PID_BITS = 0x3FFFFF  # of a socket's port: libnl adds a number above them; others use the pid alone


def is_about_link(message: Message) -> bool:
    """True if a message is about our link or an address of ours. Raises ValueError if it is cut off.

    ::1 counts, too: lo gets it again when IPv6 is enabled, and the kernel reports nothing of our link then.
    """
    if message.kind in _LINKS:
        found = dict(read_attributes(message.body[_LINK_HEADER:]))
        return found.get(_HARDWARE) == _MARK or found.get(_NAME, b"").rstrip(b"\0") == LINK.encode()
    if message.kind in _ADDRESSES:
        found = dict(read_attributes(message.body[_ADDRESS_HEADER:]))
        return found.get(_ADDRESS) in _OURS
    return False


def author_of(message: Message) -> int | None:
    """The pid of the program that caused a message, by its socket's usual port; None if the kernel names none."""
    return message.port & _PID_BITS if 0 < message.port < 1 << 31 else None
