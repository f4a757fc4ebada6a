"""What to do about the table, from what is wanted and what is there. Pure.

A table of ours is trusted while its fingerprint is the one that it had right after it was made, also if an earlier
agent made and recorded it with the same rules. Any other table is replaced, which no connection notices.
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from exclave.redirect.kernel.observe import Observed
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import ruleset_digest

FIGHT = 10
WITHIN = 10.0
"""So many repairs in so many seconds are no accidents: some program undoes each repair."""

PAUSE = 1.0
"""Seconds between repairs then."""


class Action(Enum):
    """What to do next."""

    NOTHING = "nothing"
    APPLY = "apply"  # what is wanted is new
    REPAIR = "repair"  # others have changed what we made


def plan_table(wanted: RedirectPolicy | None, observed: Observed, reference: str | None) -> Action:
    """`reference` is the fingerprint of the table as we applied it; None: not known."""
    if wanted is None:
        # The drain ruleset replaces an existing table; none is made for that.
        return Action.APPLY if observed.installed and not observed.is_draining else Action.NOTHING
    if reference is None:
        return Action.APPLY
    if observed.fingerprint != reference:
        return Action.REPAIR
    if wanted.armed_until == 0 and observed.armed_left:
        return Action.APPLY  # its time is over before the kernel's
    return Action.NOTHING if observed.digest == ruleset_digest(wanted) else Action.APPLY


def is_wider(before: RedirectPolicy | None, wanted: RedirectPolicy) -> bool:
    """Whether connections may have begun outside the wanted rules. `before`: the rules until now, None: not known."""
    return before is None or replace(before, instance=wanted.instance, trial=wanted.trial) != wanted


def pause_after(repairs: Iterable[float], now: float) -> float:
    """Seconds to wait before the next repair, from the times of the last ones; 0.0: none."""
    return PAUSE if sum(now - at < WITHIN for at in repairs) >= FIGHT else 0.0
