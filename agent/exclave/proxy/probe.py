"""Probes a proxy at its admin server: `/ready`, `/metrics`, or a TLS handshake where a policy denies our requests."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx
import trio
from cryptography import x509

from exclave.identity.svid import Svid
from exclave.kit.formats.x509 import not_after
from exclave.kit.host.plain_http import open_plain_client
from exclave.link.layout import ADMIN_PORT, Instance, instance_address
from exclave.proxy.metrics import read_expiry

TIMEOUT = 2.0  # seconds for one answer of the admin server

_READY, _NOT_READY = 200, 503  # the answers of `/ready` itself; any other status comes from a policy


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe. `expires`: end of the served certificate (epoch seconds), None if unknown.

    `is_admin_denied`: a policy denies our requests, so the result comes from a handshake.
    """

    is_ready: bool
    expires: float | None = None
    is_admin_denied: bool = False


class ProxyProbe:
    """Probes one instance. Made by `open_probe`."""

    def __init__(self, client: httpx.AsyncClient, address: str, port: int, server_name: str) -> None:
        self._client = client
        self._address = address
        self._port = port
        self._server_name = server_name

    async def query(self, *, with_metrics: bool) -> ProbeResult | None:
        """Probe now; None if the proxy does not answer.

        `/ready` shows only that there is a certificate. The metrics show which one, but may be long.
        """
        try:
            ready = await self._client.get("/ready")
            if ready.status_code == _NOT_READY or (ready.status_code == _READY and not with_metrics):
                return ProbeResult(ready.status_code == _READY)
            page = await fetch_metrics(self._client) if ready.status_code == _READY else None
        except httpx.HTTPError:
            return None
        if page is not None:
            return ProbeResult(True, read_expiry(page))
        # Linkerd's inbound policy also covers the admin port. Until it arrives, the default policy is in force: 404
        # under `deny`, 403 under others. A Server for the port may also have routes without `/ready`: 404. Such a proxy
        # runs, and a handshake shows that it has a certificate, as `/ready` would.
        leaf = await read_leaf(self._address, self._port, self._server_name, TIMEOUT)
        return ProbeResult(leaf is not None, None if leaf is None else _leaf_end(leaf), is_admin_denied=True)


@asynccontextmanager
async def open_probe(address: str, port: int, server_name: str) -> AsyncIterator[ProxyProbe]:
    """A probe of the admin server at this address; `server_name` is the name for which the proxy serves TLS."""
    async with open_plain_client(address, port, TIMEOUT) as client:
        yield ProxyProbe(client, address, port, server_name)


def open_admin_client(instance: Instance) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """A client of an instance's admin server."""
    return open_plain_client(instance_address(instance), ADMIN_PORT, TIMEOUT)


async def fetch_metrics(client: httpx.AsyncClient) -> str | None:
    """The metrics page; None if a policy denies it. Raises httpx.HTTPError if the proxy does not answer."""
    response = await client.get("/metrics")
    return response.text if response.status_code == 200 else None


async def read_leaf(address: str, port: int, server_name: str, timeout: float) -> bytes | None:
    """The leaf certificate that an admin server serves (DER); None without one within `timeout` seconds.

    linkerd2-proxy ends TLS for its own name before any policy, and accepts clients without a certificate
    (linkerd2-proxy, linkerd/app/admin/src/stack.rs), as soon as `/ready` would answer 200 (linkerd/app/src/lib.rs).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The chain is not verified: TLS 1.3 proves that the server has the leaf's key, and the caller compares the leaf.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with trio.fail_after(timeout):
            plain = await trio.open_tcp_stream(address, port)
            async with trio.SSLStream(plain, context, server_hostname=server_name, https_compatible=True) as stream:
                await stream.do_handshake()
                leaf: bytes | None = stream.getpeercert(binary_form=True)
                return leaf
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        return None


def is_serving(result: ProbeResult, svid: Svid | None) -> bool:
    """True if a proxy is ready and serves this certificate. Its metric shows the leaf's end in whole seconds."""
    if svid is None or not result.is_ready or result.expires is None:
        return False
    return abs(result.expires - leaf_not_after(svid)) < 1.0


def leaf_not_after(svid: Svid) -> float:
    """The end of the leaf (epoch seconds). The end of the SVID, that of its whole chain, may come earlier."""
    return _leaf_end(svid.chain[0])


def _leaf_end(leaf: bytes) -> float:
    return not_after(x509.load_der_x509_certificate(leaf))
