"""Which of the two places on the private link a new instance takes. Blocking: binding a socket never waits.

Rules: a place is free if its three ports can be bound; a process that is not ours and sits there is left alone, and the
other place is taken.
"""

import errno
import socket
from collections.abc import Collection

from exclave.errors import Fault, HostError
from exclave.link.layout import ADMIN_PORT, INBOUND_PORT, INSTANCES, OUTBOUND_PORT, Family, Instance, instance_address

FAMILIES: tuple[Family, Family] = (4, 6)


def choose_slot(held: Collection[Instance] = ()) -> Instance:
    """The first free place, not among those `held` by processes of ours.

    Raises HostError if both are taken, or if the link's addresses are not there.
    """
    wanted = [instance for instance in INSTANCES if instance not in held]
    if not wanted:
        hint = "one of them is about to end: exclave status"
        raise HostError(Fault.OCCUPIED, "both places of the private link have a proxy already", hint)
    for instance in wanted:
        if all(_is_free(instance_address(instance), port) for port in (INBOUND_PORT, OUTBOUND_PORT, ADMIN_PORT)):
            return instance
    taken = " and ".join(instance_address(instance) for instance in wanted)
    raise HostError(
        Fault.OCCUPIED,
        f"the proxy's ports on {taken} are taken by processes that are not ours",
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
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no listener
        trial.bind((address, port))
