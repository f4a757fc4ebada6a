"""Growing, jittered pauses between attempts. Pure: the draw is passed in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses of `first` seconds, times `factor` at each attempt, at most `most` seconds.

    `jitter` is the share of the pause that the draw moves: 0.5 gives half to the whole of it.
    """

    first: float
    most: float
    factor: float = 2.0
    jitter: float = 0.5

    def pause(self, attempt: int, draw: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 0), with `draw` in [0, 1)."""
        exponent = min(attempt, 64)
        whole = min(self.most, self.first * self.factor**exponent)
        return whole * (1.0 - self.jitter * draw)
