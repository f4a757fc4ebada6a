"""Asking a proxy how it is: `/ready`, and in `/metrics` the end of the certificate that it serves.

Rules: `/ready` alone proves little: it says yes as soon as there is a certificate, whichever. The metrics prove what is
served, so a proxy counts as certified when that certificate is ours. Metrics can be long; they are read until they
show the newest certificate, and seldom after that.
Linkerd's inbound policy holds for the admin server, too. It lets this machine ask once it has come from Linkerd; before
that the default holds, which may let nobody ask: 404 under `deny`, 403 under others. And a Server that somebody makes
for the port may have routes that say nothing of `/ready`: 404. A proxy that refuses lives, and says nothing of how it
is. What it serves is seen in a handshake then, and a certificate is all that `/ready` would say.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from cryptography import x509

from exclave.identity.svid import Svid
from exclave.kit.formats.x509 import not_after
from exclave.kit.host.plain_http import open_plain_client
from exclave.proxy.handshake import read_leaf

PATIENCE = 2.0
"""Seconds for one answer."""

READY, NOT_READY = 200, 503
"""What `/ready` says; anything else comes from a policy."""

_EXPIRY = re.compile(r"^(?:\w+_)?identity_cert_expiration_timestamp_seconds(?:\{[^}]*\})? (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class ProbeResult:
    """What a proxy said. `expires` is the end of its certificate (epoch seconds), None if not asked or not told.

    `is_refused`: a policy keeps us from asking, so that all this was seen in a handshake.
    """

    is_ready: bool
    expires: float | None = None
    is_admin_denied: bool = False


class ProxyProbe:
    """Where to look at one instance."""

    def __init__(self, client: httpx.AsyncClient, address: str, port: int, server_name: str) -> None:
        self._client = client
        self._place = (address, port)
        self._server_name = server_name

    async def query(self, *, with_metrics: bool) -> ProbeResult | None:
        """Ask; None if nobody answers."""
        try:
            ready = await self._client.get("/ready")
            if ready.status_code == NOT_READY or (ready.status_code == READY and not with_metrics):
                return ProbeResult(ready.status_code == READY)
            metrics = await self._client.get("/metrics") if ready.status_code == READY else None
        except httpx.HTTPError:
            return None
        if metrics is not None and metrics.status_code == 200:
            return ProbeResult(True, read_expiry(metrics.text))
        leaf = await read_leaf(*self._place, self._server_name, PATIENCE)
        return ProbeResult(leaf is not None, None if leaf is None else _leaf_end(leaf), is_admin_denied=True)


@asynccontextmanager
async def open_probe(address: str, port: int, server_name: str) -> AsyncIterator[ProxyProbe]:
    """A connection to an instance's admin server, made when it is needed; `server_name` is what it serves TLS for."""
    async with open_plain_client(address, port, PATIENCE) as client:
        yield ProxyProbe(client, address, port, server_name)


def read_expiry(metrics: str) -> float | None:
    """The end of the proxy's certificate in a metrics text, epoch seconds; None if it has none."""
    found = _EXPIRY.search(metrics)
    if found is None:
        return None
    try:
        return float(found[1]) or None
    except ValueError:
        return None


def is_serving(query: ProbeResult, svid: Svid | None) -> bool:
    """Whether a proxy says ready and serves this certificate; the metric is the leaf's end in whole seconds."""
    if svid is None or not query.is_ready or query.expires is None:
        return False
    return abs(query.expires - leaf_not_after(svid)) < 1.0


def leaf_not_after(svid: Svid) -> float:
    """The end of the leaf itself; an SVID's is that of its chain, which may come earlier."""
    return _leaf_end(svid.chain[0])


def _leaf_end(leaf: bytes) -> float:
    return not_after(x509.load_der_x509_certificate(leaf))
