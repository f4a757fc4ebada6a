"""When a proxy that has ended is started again. Pure.

Rules: 1 s after the first end, twice as long after each further one, at most 60 s; a proxy that has run for `SETTLED`
seconds starts the count again. No jitter: a machine restarts its own proxy, and nobody shares the moment.
"""

from dataclasses import dataclass, replace

from exclave.kit.tasks.backoff import Backoff

PAUSES = Backoff(first=1.0, most=60.0, jitter=0.0)

SETTLED = 60.0
"""Seconds after which a run counts as a success."""


@dataclass(frozen=True)
class Restarts:
    """How many runs in a row have ended early."""

    failures: int = 0

    def after(self, ran_for: float) -> tuple["Restarts", float]:
        """The count after a run of `ran_for` seconds, and the seconds to wait before the next."""
        failures = 0 if ran_for >= SETTLED else self.failures
        return replace(self, failures=failures + 1), PAUSES.pause(failures, 0.0)
