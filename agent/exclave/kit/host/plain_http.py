"""HTTP without TLS, to programs of this machine.

Rules: a client's own address is the loopback one, on whichever address of this machine its server listens: so the
server can tell that it is asked from here, which many a policy lets pass that lets nobody else in. The kernel would
otherwise take the server's own address for both ends.
httpx would load every certificate authority of the public internet for each client, a megabyte and some milliseconds,
also where no TLS is ever spoken. A client of ours trusts nobody: should it be sent to TLS, it refuses.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from exclave.kit.formats.host_port import join_host_port

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
"""Our own address, by the server's family."""


@asynccontextmanager
async def open_plain_client(address: str, port: int, timeout: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client for one server, at an IP of this machine, that heeds no proxy settings; `timeout` is seconds."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    family = 6 if ":" in address else 4
    transport = httpx.AsyncHTTPTransport(local_address=LOOPBACK[family], verify=nobody, trust_env=False)
    url = f"http://{join_host_port(address, port)}"
    async with httpx.AsyncClient(base_url=url, timeout=timeout, transport=transport, trust_env=False) as client:
        yield client
