"""A proxy's admin server that says what a test wants."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

EXPIRY = "identity_cert_expiration_timestamp_seconds"


@dataclass
class Admin:
    """What it answers: the status of `/ready`, None to close without a word; and metrics. `asked` are the paths."""

    ready: int | None
    metrics: str
    port: int = 0
    asked: list[str] = field(default_factory=list)

    def certify(self, end: float) -> None:
        """Show a certificate that ends then."""
        self.metrics = f"control_{EXPIRY} {end}\n"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Talk on one connection."""
        async with stream:
            text = b""
            async for piece in stream:
                text += piece
                while b"\r\n\r\n" in text:
                    head, _, text = text.partition(b"\r\n\r\n")
                    path = head.split()[1].decode()
                    self.asked.append(path)
                    if self.ready is None:
                        return
                    status, body = (self.ready, "") if path == "/ready" else (200, self.metrics)
                    await stream.send_all(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


@asynccontextmanager
async def admin(ready: int, metrics: str = "", *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Admin]:
    """Have one while open; any port unless one is given."""
    served = Admin(ready, metrics)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, served.serve, port, host=host))
        served.port = listeners[0].socket.getsockname()[1]
        yield served
        nursery.cancel_scope.cancel()
