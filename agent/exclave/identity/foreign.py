"""Certificates that were signed as this member for keys that are not its own. Pure.

Whoever has a member's credential, a thief or a clone, can have a certificate signed, and the controller remembers the
last few in the Member, where no machine can write. Rules: what was signed before the first key that this machine knows
as its own says nothing, since a join may have lost a key on its way; nor does a machine that knows no key of its own.
"""

from collections.abc import Collection, Sequence

from exclave.api.member import Issued


def foreign_keys(issued: Sequence[Issued], own: Collection[str]) -> tuple[Issued, ...]:
    """Those of `issued`, the oldest first, that others had signed. `own` are sha256 (hex) of this machine's keys."""
    if not own:
        return ()
    first = next((place for place, one in enumerate(issued) if one.key_sha256 in own), 0)
    return tuple(one for one in issued[first:] if one.key_sha256 not in own)


def describe_foreign(issued: Sequence[Issued]) -> str | None:
    """What is said of them, None if there are none."""
    if not issued:
        return None
    listed = ", ".join(f"{one.serial} at {one.time}" for one in issued)
    return f"certificates were signed as this member for keys that this machine never had: {listed}"
