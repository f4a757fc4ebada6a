"""An HTTP client without TLS, for programs of this machine. Answers are bounded in size and in time.

It binds to loopback, which Linkerd's policies always allow; else the kernel would use the server's own address.
"""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

import httpx
import trio

from exclave.kit.formats.host_port import join_host_port

MOST_BYTES = 16 * 1024 * 1024  # of one answer. The metrics of a proxy with a thousand destinations have a few MB.


@asynccontextmanager
async def open_plain_client(address: str, port: int, timeout: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client for one server on this machine, which ignores proxy settings.

    `timeout`: seconds for each step, and for all the rest of an answer after its head. A longer answer, one of more
    than `MOST_BYTES`, and a compressed one raise httpx.ReadError.
    """
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # else httpx would load every public certificate authority
    loopback = "::1" if ":" in address else "127.0.0.1"
    transport = _BoundedTransport(timeout, loopback, nobody)
    url, headers = f"http://{join_host_port(address, port)}", {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=False
    ) as client:
        yield client


class _BoundedTransport(httpx.AsyncHTTPTransport):
    def __init__(self, seconds: float, local_address: str, tls: ssl.SSLContext) -> None:
        super().__init__(local_address=local_address, verify=tls, trust_env=False)
        self._seconds = seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.stream = _BoundedStream(cast("httpx.AsyncByteStream", response.stream), self._seconds)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            await response.aclose()
            raise httpx.ReadError("an answer without compression was expected", request=request)
        return response


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, seconds: float) -> None:
        self._stream = stream
        self._until = trio.current_time() + seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async with aclosing(cast("AsyncGenerator[bytes, None]", self._stream.__aiter__())) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > MOST_BYTES or trio.current_time() > self._until:
                    raise httpx.ReadError(f"an answer of at most {MOST_BYTES} bytes was expected in time")
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
