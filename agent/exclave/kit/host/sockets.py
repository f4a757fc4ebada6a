"""Parses /proc/net/tcp and tcp6. Sources: proc_pid_net_tcp(5), include/net/tcp_states.h. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ESTABLISHED, SYN_RECV, CLOSE_WAIT = 0x01, 0x03, 0x08  # states
FIN_WAIT = (0x04, 0x05)
Place = tuple[str, int]  # an IP and a port


@dataclass(frozen=True)
class Socket:
    """One socket. `inode` is 0 while no process holds it."""

    local: Place
    remote: Place
    state: int
    uid: int
    inode: int


def read_sockets(table: str) -> Iterator[Socket]:
    """The sockets of a table, which may be empty. Raises ValueError for an invalid line."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10:
            raise ValueError("a line of ten fields was expected in the kernel's table of sockets")
        yield Socket(_place(fields[1]), _place(fields[2]), int(fields[3], 16), int(fields[7]), int(fields[9]))


def _place(text: str) -> Place:
    """Address and port. The kernel prints each 32-bit word of an address as the machine stores it (little-endian)."""
    host, port = text.split(":")
    raw = b"".join(bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8))
    address = IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
    return str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)
