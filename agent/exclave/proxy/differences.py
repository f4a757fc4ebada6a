"""How a running proxy differs from the wanted one. Pure.

What is unknown is no difference: the record of an older agent may not name the binary, and the memory of a process that
has ended cannot be read.
"""

from enum import Enum


class Difference(Enum):
    """Why a process should be replaced; the value is shown to people."""

    BINARY = "another binary"
    # Settings, trust anchors, ports and addresses are all environment, which a process reads once.
    ENVIRONMENT = "new settings"
    MEMORY = "its memory"


def differences(
    running: tuple[str, str | None],
    wanted: tuple[str | None, str | None],
    memory: int | None = None,
    limit: int = 0,
) -> frozenset[Difference]:
    """The differences. Both tuples are the digests of environment and binary; `memory` and its `limit` are bytes."""
    found = set()
    if wanted[0] is not None and running[0] != wanted[0]:
        found.add(Difference.ENVIRONMENT)
    if None not in (running[1], wanted[1]) and running[1] != wanted[1]:
        found.add(Difference.BINARY)
    if memory is not None and memory > limit:
        found.add(Difference.MEMORY)
    return frozenset(found)
