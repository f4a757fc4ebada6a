"""A proxy's admin server that answers as a test wants."""

import functools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from exclave.identity.svid import Svid
from exclave_sandbox.standin.stream import BROKEN, PeekedStream
from exclave_sandbox.standin.tls import ProxyCertificate, Tls
from support.mesh import mesh

EXPIRY = "identity_cert_expiration_timestamp_seconds"
SERVER_NAME = "web.shop.svc.cluster.local"


@dataclass
class Admin:
    """What it answers: the status of `/ready`, None to close without an answer; and metrics. `asked` are the paths.

    `refused` are paths that a policy denies, `refusal` is the status that it answers with instead.
    """

    ready: int | None
    metrics: str
    port: int = 0
    asked: list[str] = field(default_factory=list)
    refusal: int = 403
    refused: frozenset[str] = frozenset()
    tls: Tls = field(default_factory=lambda: Tls(mesh().anchor.pem))
    handshakes: int = 0

    def certify(self, end: float) -> None:
        """Show a certificate that ends then."""
        self.metrics = f"control_{EXPIRY} {end}\n"

    def load(self, svid: Svid) -> None:
        """Serve this certificate in handshakes."""
        self.tls.load(ProxyCertificate(svid.chain, svid.key))

    async def serve(self, accepted: trio.SocketStream) -> None:
        """Serve one connection."""
        async with accepted:
            try:
                if await accepted.socket.recv(1, socket.MSG_PEEK) == b"\x16":
                    self.handshakes += 1
                    await self.tls.accept_for(PeekedStream(accepted), SERVER_NAME)
                else:
                    await self._answer(accepted)
            except BROKEN:
                return

    async def _answer(self, stream: trio.SocketStream) -> None:
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
                if path in self.refused:
                    status, body = self.refusal, ""
                await stream.send_all(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


@asynccontextmanager
async def admin(ready: int, metrics: str = "", *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Admin]:
    """Have one while open; on any port by default."""
    served = Admin(ready, metrics)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, served.serve, port, host=host))
        served.port = listeners[0].socket.getsockname()[1]
        yield served
        nursery.cancel_scope.cancel()
