"""Chooses one of the two slots on the private link for a new instance. Blocking: binding a socket never waits.

A slot is free if its three ports can be bound. A slot whose ports another program uses is left to that program.
"""

import errno
import socket
from collections.abc import Collection

from exclave.errors import Fault, HostError
from exclave.link.layout import ADMIN_PORT, INBOUND_PORT, INSTANCES, OUTBOUND_PORT, Family, Instance, instance_address

FAMILIES: tuple[Family, Family] = (4, 6)


def choose_slot(used: Collection[Instance] = ()) -> Instance:
    """The first free slot that is not among the `used` ones, which our own processes have.

    Raises HostError if no slot is free, or if the link does not have its addresses.
    """
    wanted = [instance for instance in INSTANCES if instance not in used]
    if not wanted:
        hint = "one of them is about to end: exclave status"
        raise HostError(Fault.OCCUPIED, "both instances of the proxy run already", hint)
    for instance in wanted:
        if all(_is_free(instance_address(instance), port) for port in (INBOUND_PORT, OUTBOUND_PORT, ADMIN_PORT)):
            return instance
    occupied = " and ".join(instance_address(instance) for instance in wanted)
    raise HostError(
        Fault.OCCUPIED,
        f"the proxy's ports on {occupied} are taken by processes that are not ours",
        f"see whose they are, and end them: ss -ltnp 'sport = :{ADMIN_PORT}'",
    )


def find_families(instance: Instance) -> tuple[Family, ...]:
    """The address families that the private link has for an instance; IPv4 in any case."""
    return tuple(family for family in FAMILIES if family == 4 or _is_there(instance_address(instance, family)))


def _is_free(address: str, port: int) -> bool:
    try:
        _bind(socket.SOCK_STREAM, address, port)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return False
        raise HostError(
            Fault.OCCUPIED,
            f"the proxy cannot listen on {address}:{port}: {(problem.strerror or '').lower()}",
            "the link exclave0 should have that address: exclave cleanup, then start again",
        ) from None
    return True


def _is_there(address: str) -> bool:
    try:
        _bind(socket.SOCK_DGRAM, address, 0)
    except OSError:
        return False
    return True


def _bind(kind: int, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind | socket.SOCK_CLOEXEC) as trial:
        # A closed connection that lingers must not count as a listener.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((address, port))
