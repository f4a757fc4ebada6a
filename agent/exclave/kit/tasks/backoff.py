"""Growing pauses between attempts, with jitter. Pure: the draw is passed in."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

FIGHT, WITHIN = 10, 10.0  # so many repairs in so many seconds: another program undoes each repair
PAUSE = 1.0  # seconds between two repairs in that case


@dataclass(frozen=True)
class Backoff:
    """Pauses of `first` seconds, times `factor` at each attempt, at most `most` seconds.

    `jitter` is the random share of a pause: with 0.5 it lasts half to all of its time.
    """

    first: float
    most: float
    factor: float = 2.0
    jitter: float = 0.5

    def pause(self, attempt: int, draw: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 0), with `draw` in [0, 1)."""
        whole = min(self.most, self.first * self.factor ** min(attempt, 64))
        return whole * (1.0 - self.jitter * draw)


class Attempts:
    """Counts failed attempts. `settled`: a run of so many seconds counts as a success."""

    def __init__(self, settled: float = inf) -> None:
        self._settled = settled
        self._failures = 0

    def failed(self, backoff: Backoff, draw: float, *, ran_for: float = 0.0) -> float:
        """Count a failure after a run of `ran_for` seconds; returns the seconds to wait."""
        if ran_for > self._settled:
            self._failures = 0
        self._failures += 1
        return backoff.pause(self._failures - 1, draw)

    def succeeded(self) -> None:
        """Begin again with the first pause."""
        self._failures = 0


def pause_after(repairs: Iterable[float], now: float) -> float:
    """Seconds to wait before the next repair, from the times of the last ones; 0.0 for none."""
    return PAUSE if sum(now - at < WITHIN for at in repairs) >= FIGHT else 0.0
