"""When to renew a certificate, and when to try again. Pure: clocks and draws are passed in.

A certificate's life runs from its receipt, not from its back-dated notBefore. The point of renewal is drawn once per
certificate, between 50 % and 65 % of that life: drawn again at every look, the luckiest draw would win and a fleet
would renew together.
"""

from dataclasses import dataclass

from exclave.identity.svid import Svid
from exclave.kit.tasks.backoff import Backoff

EARLIEST = 0.50
LATEST = 0.65

ISSUER_SPREAD = 600.0
"""Seconds over which a fleet renews after the issuer has changed, at most a tenth of a certificate's life."""

FIRST_RETRIES = Backoff(first=1.0, most=60.0)
"""Pauses between failed attempts while there is no certificate at all: each one costs the controller a signature."""


@dataclass(frozen=True)
class StoredSvid:
    """A certificate with the times that were decided when it came: epoch seconds."""

    svid: Svid
    received: float
    renew_at: float


def renew_at(received: float, not_after: float, draw: float) -> float:
    """The time to renew a certificate received then, with `draw` in [0, 1)."""
    life = max(0.0, not_after - received)
    return received + life * (EARLIEST + (LATEST - EARLIEST) * draw)


def renew_after_issuer_change(stored: StoredSvid, now: float, draw: float) -> float:
    """The time to renew because the mesh has a new issuer: soon, spread, never later than planned."""
    spread = min(ISSUER_SPREAD, 0.1 * max(0.0, stored.svid.not_after - stored.received))
    return min(stored.renew_at, now + spread * draw)


def retries(not_after: float, received: float) -> Backoff:
    """Pauses between failed renewals: short-lived certificates are retried sooner. At most five minutes."""
    life = max(1.0, not_after - received)
    return Backoff(first=min(5.0, life / 40), most=min(300.0, life / 10))
