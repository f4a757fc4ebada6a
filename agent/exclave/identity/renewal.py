"""When to renew a certificate, and when to try again. Pure: clocks and draws are passed in."""

from dataclasses import dataclass

from exclave.identity.svid import Svid
from exclave.kit.tasks.backoff import Backoff

EARLIEST, LATEST = 0.50, 0.65
"""Shares of a certificate's life between which its point of renewal is drawn, once. With a new draw at every check the
lowest draw would win, and a fleet would renew at the same time."""

ISSUER_SPREAD = 600.0
"""Seconds over which a fleet renews after the issuer has changed, at most a tenth of a certificate's life."""

FIRST_RETRIES = Backoff(first=1.0, most=60.0)
"""Pauses between failed attempts while there is no certificate. Each attempt may cost the controller a signature."""


@dataclass(frozen=True)
class StoredSvid:
    """A certificate with the times that were set when it arrived, in epoch seconds."""

    svid: Svid
    received: float
    renew_at: float


def renew_at(received: float, not_after: float, draw: float) -> float:
    """The time to renew a certificate that was received at `received`, with `draw` in [0, 1)."""
    # Not from notBefore, which is back-dated.
    life = max(0.0, not_after - received)
    return received + life * (EARLIEST + (LATEST - EARLIEST) * draw)


def renew_after_issuer_change(stored: StoredSvid, now: float, draw: float) -> float:
    """The time to renew after the mesh's issuer has changed: soon, spread over the fleet, never later than planned."""
    spread = min(ISSUER_SPREAD, 0.1 * max(0.0, stored.svid.not_after - stored.received))
    return min(stored.renew_at, now + spread * draw)


def retries(not_after: float, received: float) -> Backoff:
    """Pauses between failed renewals, at most five minutes; shorter for certificates with a short life."""
    life = max(1.0, not_after - received)
    return Backoff(first=min(5.0, life / 40), most=min(300.0, life / 10))
