"""What makes a proxy that runs another than the one that is wanted. Pure.

Rules: what nobody knows is no difference: the record of an older agent says nothing of the program, a process whose
memory cannot be read uses none. Settings, trust anchors, ports and addresses are one difference, since all of them are
environment, which a process reads once.
"""

from enum import Enum


class Difference(Enum):
    """Why a process should be replaced; the value is told to people."""

    PROGRAM = "another binary"
    ENVIRONMENT = "new settings"
    MEMORY = "its memory"


def differences(
    running: tuple[str, str | None],
    wanted: tuple[str | None, str | None],
    memory: int | None = None,
    limit: int = 0,
) -> frozenset[Difference]:
    """How what runs differs. Both tuples are digests of environment and program; memory and its limit are bytes."""
    found = set()
    if wanted[0] is not None and running[0] != wanted[0]:
        found.add(Difference.ENVIRONMENT)
    if None not in (running[1], wanted[1]) and running[1] != wanted[1]:
        found.add(Difference.PROGRAM)
    if memory is not None and memory > limit:
        found.add(Difference.MEMORY)
    return frozenset(found)
