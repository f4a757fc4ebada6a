"""What to do about the table, given what is wanted and what is there. Pure.

A table whose digest is the wanted one is trusted if it has not changed since we last looked; on the first look there
is no reference, and the digest alone decides, so that an agent that takes over re-makes nothing.
"""

from enum import Enum

from exclave.redirect.observe import Observed
from exclave.redirect.policy import RedirectPolicy


class Action(Enum):
    """What to do next."""

    NOTHING = "nothing"
    APPLY = "apply"  # what is wanted has changed
    REPAIR = "repair"  # others have changed what we made


def decide(wanted: RedirectPolicy | None, observed: Observed, reference: str) -> Action:
    """`reference` is the fingerprint of the table when we last looked, "" if there was none."""
    if wanted is None:
        return Action.APPLY if observed.installed else Action.NOTHING
    if observed.digest == wanted.digest and reference in ("", observed.fingerprint):
        return Action.NOTHING
    was_ours = bool(reference)
    changed_by_others = was_ours and observed.fingerprint != reference
    return Action.REPAIR if changed_by_others else Action.APPLY
