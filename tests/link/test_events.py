"""Which of the kernel's messages are about the private link. Those of the real kernel are in test_link.py."""

from ipaddress import ip_address

import pytest

from exclave.kit.netlink.messages import Message, write_attribute
from exclave.link.events import author_of, is_about_link
from exclave.link.layout import LINK
from exclave.link.plan import MARK

NEW_LINK, DELETED_LINK, NEW_ADDRESS, DELETED_ADDRESS, NEW_ROUTE = 16, 17, 20, 21, 24
HARDWARE, NAME, ADDRESS = 1, 3, 1
OTHER = "02:00:00:00:00:01"


def of_link(kind: int, name: str, hardware: str) -> Message:
    attributes = write_attribute(NAME, name.encode() + b"\0") + write_attribute(
        HARDWARE, bytes.fromhex(hardware.replace(":", ""))
    )
    return Message(kind, 0, bytes(16) + attributes)


def of_address(kind: int, address: str) -> Message:
    return Message(kind, 0, bytes(8) + write_attribute(ADDRESS, ip_address(address).packed))


MESSAGES: dict[str, tuple[Message, bool]] = {
    "our link was changed": (of_link(NEW_LINK, LINK, MARK), True),
    "our link was renamed": (of_link(NEW_LINK, "lan7", MARK), True),
    "our link got another hardware address": (of_link(NEW_LINK, LINK, OTHER), True),
    "our link was deleted": (of_link(DELETED_LINK, LINK, MARK), True),
    "another link": (of_link(NEW_LINK, "eth0", OTHER), False),
    "a link whose name begins as ours": (of_link(NEW_LINK, "exclave01", OTHER), False),
    "an address of ours is gone": (of_address(DELETED_ADDRESS, "169.254.77.3"), True),
    "an address of ours over IPv6 is gone": (of_address(DELETED_ADDRESS, "fd77:ec1a:7e::1"), True),
    "IPv6 is enabled again": (of_address(NEW_ADDRESS, "::1"), True),
    "another address": (of_address(NEW_ADDRESS, "10.0.0.1"), False),
    "a route": (of_address(NEW_ROUTE, "169.254.77.3"), False),
}


@pytest.mark.parametrize(("message", "is_ours"), MESSAGES.values(), ids=MESSAGES)
def test_message(message: Message, is_ours: bool) -> None:
    assert is_about_link(message) is is_ours


@pytest.mark.parametrize(
    ("port", "pid"),
    [(0, None), (1234, 1234), (7 << 22 | 1234, 1234), (0xFFFFF000, None)],
    ids=["the kernel itself", "iproute2, networkd", "libnl", "a second socket of a program"],
)
def test_author(port: int, pid: int | None) -> None:
    assert author_of(Message(NEW_LINK, port, b"")) == pid
