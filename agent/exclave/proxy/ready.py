"""Asking a proxy how it is: `/ready`, and in `/metrics` the end of the certificate that it serves.

Rules: `/ready` alone proves little: it says yes as soon as there is a certificate, whichever. The metrics prove what is
served, so a proxy counts as certified when that certificate is ours. Metrics can be long; they are read until they
show the newest certificate, and seldom after that.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from cryptography import x509

from exclave.identity.svid import Svid
from exclave.identity.x509 import not_after
from exclave.kit.plain_http import open_plain_client

PATIENCE = 2.0
"""Seconds for one answer."""

_EXPIRY = re.compile(r"^(?:\w+_)?identity_cert_expiration_timestamp_seconds(?:\{[^}]*\})? (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Look:
    """What a proxy said. `expires` is the end of its certificate (epoch seconds), None if not asked or not told."""

    is_ready: bool
    expires: float | None = None


class Window:
    """Where to look at one instance."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def look(self, *, with_metrics: bool) -> Look | None:
        """Ask; None if nobody answers."""
        try:
            ready = await self._client.get("/ready")
            if ready.status_code != 200 or not with_metrics:
                return Look(ready.status_code == 200)
            metrics = await self._client.get("/metrics")
        except httpx.HTTPError:
            return None
        return Look(True, read_expiry(metrics.text))


@asynccontextmanager
async def open_window(address: str, port: int) -> AsyncIterator[Window]:
    """A connection to an instance's admin server, made when it is needed."""
    async with open_plain_client(address, port, PATIENCE) as client:
        yield Window(client)


def read_expiry(metrics: str) -> float | None:
    """The end of the proxy's certificate in a metrics text, epoch seconds; None if it has none."""
    found = _EXPIRY.search(metrics)
    if found is None:
        return None
    try:
        return float(found[1]) or None
    except ValueError:
        return None


def serves(look: Look, svid: Svid | None) -> bool:
    """Whether a proxy says ready and serves this certificate; the metric is the leaf's end in whole seconds."""
    if svid is None or not look.is_ready or look.expires is None:
        return False
    return abs(look.expires - leaf_not_after(svid)) < 1.0


def leaf_not_after(svid: Svid) -> float:
    """The end of the leaf itself; an SVID's is that of its chain, which may come earlier."""
    return not_after(x509.load_der_x509_certificate(svid.chain[0]))
