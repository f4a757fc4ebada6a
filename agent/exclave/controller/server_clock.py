"""The time by the API server's clock, if this machine's is wrong: certificates are valid from now, and tokens end.

Machines and the API server compare both with their own clocks. The server's HTTP Date has whole seconds, so a small
difference is none.
"""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_SKEW = 30.0  # seconds by which this machine's clock may differ from the API server's


class ServerClock:
    """Returns epoch seconds by this machine's clock, or by the API server's where they differ much."""

    def __init__(self, now: Callable[[], float], skew: Callable[[], float | None]) -> None:
        """`skew`: seconds by which the server's clock is ahead of ours, None before the first answer."""
        self._now = now
        self._skew = skew
        self._corrected = 0.0

    def __call__(self) -> float:
        """Epoch seconds."""
        skew = self._skew() or 0.0
        corrected = skew if abs(skew) > MOST_SKEW else 0.0
        if corrected != self._corrected:
            self._corrected = corrected
            if corrected:
                ahead = "behind" if corrected > 0 else "ahead of"
                log.warning(
                    "the clock of this machine is %.0f s %s the API server's, which is used instead: set it right, "
                    "for example by NTP",
                    abs(corrected),
                    ahead,
                )
            else:
                log.info("the clock of this machine agrees with the API server's")
        return self._now() + corrected
