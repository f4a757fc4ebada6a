"""An HTTP client without TLS, for programs of this machine.

It binds to loopback, which Linkerd's policies always allow; else the kernel would use the server's own address.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from exclave.kit.formats.host_port import join_host_port


@asynccontextmanager
async def open_plain_client(address: str, port: int, timeout: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client for one server on this machine, which ignores proxy settings; `timeout` is seconds."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # else httpx would load every public certificate authority
    loopback = "::1" if ":" in address else "127.0.0.1"
    transport = httpx.AsyncHTTPTransport(local_address=loopback, verify=nobody, trust_env=False)
    url = f"http://{join_host_port(address, port)}"
    async with httpx.AsyncClient(base_url=url, timeout=timeout, transport=transport, trust_env=False) as client:
        yield client
