"""How far rules have come that are to be confirmed. Pure.

    waiting ──rules in──► running ──time over──► withdrawing ──pods have heard──► over
       └──────────────────────┴───────── confirmed ──────┴───────────────────────┘

Rules: the time is what the person named, and nothing prolongs it. When it is over, pods are told first, and the rules
stop once they have heard, within `grace`; the kernel's own timer is set to the end of that, so that it needs nobody.
Confirming helps at any time, also when all is over.
"""

from dataclasses import dataclass
from enum import Enum

from exclave.kit.formats.times import format_duration

LONGEST_GRACE = 15.0
"""Seconds."""


class Stage(Enum):
    """One word each, for the log."""

    CONFIRMED = "confirmed"  # or never asked to be
    WAITING = "waiting"  # the rules are not in yet
    RUNNING = "running"
    WITHDRAWING = "withdrawing"
    OVER = "over"


@dataclass(frozen=True)
class Confirmation:
    """A stage; `seconds` is the time that was named, `kernel_end` when the kernel's timer ends (0: it has)."""

    stage: Stage = Stage.CONFIRMED
    seconds: float = 0.0
    kernel_end: float = 0.0

    @property
    def grace(self) -> float:
        """Seconds between the end of the time and the kernel's."""
        return min(self.seconds, LONGEST_GRACE)

    @property
    def ends(self) -> float:
        """When the time is over."""
        return self.kernel_end - self.grace

    @property
    def armed_until(self) -> float | None:
        """What the rules are to hold: None: no end; 0: they capture nothing."""
        if self.stage is Stage.CONFIRMED:
            return None
        return 0.0 if self.stage is Stage.OVER else self.kernel_end

    @property
    def is_withdrawn(self) -> bool:
        """Whether pods must not come here any more."""
        return self.stage in (Stage.WITHDRAWING, Stage.OVER)

    @property
    def text(self) -> str:
        """What holds, for a person; "" if there is nothing to confirm."""
        length = format_duration(self.seconds)
        if self.stage is Stage.CONFIRMED:
            return ""
        if self.is_withdrawn:
            return f"the rules were not confirmed within {length}, so nothing is captured"
        return f"the rules go back by themselves {length} after they were made, unless they are confirmed"


def begin(seconds: float, now: float) -> Confirmation:
    """Rules go in now."""
    waiting = Confirmation(Stage.RUNNING, seconds)
    return Confirmation(Stage.RUNNING, seconds, now + seconds + waiting.grace)


def resume(seconds: float, begun: bool, left: float | None, now: float) -> Confirmation:
    """What an earlier agent has left; `left` is what the kernel's timer says, None or 0 if there is none any more."""
    if not begun:
        return Confirmation(Stage.WAITING, seconds)
    if not left:
        return Confirmation(Stage.OVER, seconds)
    return Confirmation(Stage.RUNNING, seconds, now + left)
