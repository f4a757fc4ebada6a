"""What to do about the table, given what is wanted and what is there. Pure.

A table that we have made is trusted as long as its fingerprint stays what it was right after; so is one that an earlier
agent has made with the same rules, if it noted that. Any other is replaced, which no connection notices.
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from exclave.redirect.kernel.observe import Observed
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import ruleset_digest

FIGHT = 10
WITHIN = 10.0
"""So many repairs in so many seconds are no accidents: some program undoes them as soon as it sees them."""

PAUSE = 1.0


class Action(Enum):
    """What to do next."""

    NOTHING = "nothing"
    APPLY = "apply"  # what is wanted is new
    REPAIR = "repair"  # others have changed what we made


def decide(wanted: RedirectPolicy | None, observed: Observed, reference: str | None) -> Action:
    """`reference` is the fingerprint of the table that was made; None: nobody knows of any.

    Where nothing is wanted, whatever table there is comes to hold, and none is made for that.
    """
    if wanted is None:
        return Action.APPLY if observed.installed and not observed.is_holding else Action.NOTHING
    if reference is None:
        return Action.APPLY
    if observed.fingerprint != reference:
        return Action.REPAIR
    if wanted.armed_until == 0 and observed.armed_left:
        return Action.APPLY  # its time is over before the kernel's
    return Action.NOTHING if observed.digest == ruleset_digest(wanted) else Action.APPLY


def is_wider(before: RedirectPolicy | None, wanted: RedirectPolicy) -> bool:
    """Whether connections may have begun by other rules than the wanted ones; None: nobody knows by which."""
    return before is None or replace(before, instance=wanted.instance, trial=wanted.trial) != wanted


def pause_after(repairs: Iterable[float], now: float) -> float:
    """Seconds to wait before the next repair, given when the last ones were; 0.0: none."""
    return PAUSE if sum(now - at < WITHIN for at in repairs) >= FIGHT else 0.0
