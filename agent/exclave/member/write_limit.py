"""Limits how often this machine writes a value again that somebody else has overwritten in its Member. Pure.

Without it, two machines with a copy of one membership overwrite each other as fast as the API server answers.
"""

from math import inf

from exclave.kit.tasks.backoff import Backoff

PAUSES = Backoff(first=2.0, most=300.0, jitter=0.0)  # a first correction is soon, a lasting conflict costs little

FORGET = 2 * PAUSES.most  # seconds after a write; the other machine may pause as long as this one

REPORTED = 2  # repeated writes; one may be an admin's mistake


class WriteLimit:
    """The pauses for one field. A value that differs from the last written one has no pause. Times are in seconds."""

    def __init__(self) -> None:
        self._value: object = None
        self._written_at = -inf
        self._repeats = 0

    def pause(self, value: object, now: float) -> float:
        """Seconds to wait before `value` is written; 0 if it may be written now."""
        if value != self._value:
            return 0.0
        return max(0.0, self._written_at + PAUSES.pause(self._repeats, 0.0) - now)

    def observe_write(self, value: object, now: float) -> None:
        """Count a write."""
        is_repeat = value == self._value and now - self._written_at <= FORGET
        self._repeats = self._repeats + 1 if is_repeat else 0
        self._value, self._written_at = value, now

    def is_conflict(self, value: object, now: float) -> bool:
        """True while `value` is written again and again."""
        return value == self._value and self._repeats >= REPORTED and now - self._written_at <= FORGET
