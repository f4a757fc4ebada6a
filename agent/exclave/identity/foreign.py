"""Certificates that were signed as this member for keys that are not its own. Pure.

A thief or a clone with the member's credential can have certificates signed. The controller lists the last ones in the
Member's status, which no machine can write.
"""

from collections.abc import Collection, Sequence

from exclave.api.member import Issued


def foreign_keys(issued: Sequence[Issued], own: Collection[str]) -> tuple[Issued, ...]:
    """The foreign ones of `issued`, whose order is oldest first. `own` are sha256 (hex) of this machine's keys."""
    if not own:
        return ()
    # Entries before the first own key do not count: a join may have lost its first key.
    first = next((index for index, one in enumerate(issued) if one.key_sha256 in own), 0)
    return tuple(one for one in issued[first:] if one.key_sha256 not in own)


def describe_foreign(issued: Sequence[Issued]) -> str | None:
    """The problem for a person, None if there are none."""
    if not issued:
        return None
    listed = ", ".join(f"{one.serial} at {one.time}" for one in issued)
    return f"certificates were signed as this member for keys that this machine never had: {listed}"
