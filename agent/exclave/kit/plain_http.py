"""HTTP without TLS, to programs of this machine.

httpx would load every certificate authority of the public internet for each client, a megabyte and some milliseconds,
also where no TLS is ever spoken. A client of ours trusts nobody: should it be sent to TLS, it refuses.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx


@asynccontextmanager
async def open_plain_client(base_url: str, timeout: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client for one server, such as http://169.254.77.1:4191, that heeds no proxy settings; `timeout` is seconds."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with httpx.AsyncClient(base_url=base_url, timeout=timeout, trust_env=False, verify=nobody) as client:
        yield client
