"""Parses the arguments of `exclave explain`. Pure.

[outbound] ADDRESS:PORT     a local program connects there; also [ADDRESS]:PORT and NAME:PORT
inbound [ADDRESS]:PORT      a connection from outside to this machine or through it; by default, to each own address
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from exclave.kit.formats.host_port import join_host_port, split_host_port

DIRECTIONS = ("outbound", "inbound")

_NAME = re.compile(
    r"(?=.{1,253}\.?$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?", re.I
)


@dataclass(frozen=True)
class Query:
    """A connection to explain. `host` is an address as the kernel writes it, a name, or "" for each own address."""

    direction: str
    host: str
    port: int
    is_name: bool = False

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


def parse_query(words: Sequence[str]) -> Query:
    """Parse the arguments. Raises ValueError saying what was expected."""
    direction, *rest = words if words and words[0] in DIRECTIONS else ("outbound", *words)
    if len(rest) != 1:
        raise ValueError(f"one destination was expected, such as 10.42.0.9:80, found {' '.join(rest) or 'none'}")
    host, port = split_host_port(rest[0])
    if not host:
        if direction == "outbound":
            raise ValueError(f"an address or a name was expected before the port, found {rest[0]!r}")
        return Query(direction, "", port)
    try:
        if "%" in host:
            raise ValueError
        return Query(direction, str(ip_address(host)), port)
    except ValueError:
        if _NAME.fullmatch(host) is None or ":" in host or host.replace(".", "").isdecimal():
            raise ValueError(f"an address or a name was expected before the port, found {rest[0]!r}") from None
    if direction == "inbound":
        raise ValueError(f"an address of this machine was expected, found {host}")
    return Query(direction, host, port, is_name=True)
