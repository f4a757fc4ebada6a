"""A proxy's admin server that says what a test wants, and a network of the test's own where it may stand."""

import ctypes
import functools
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

EXPIRY = "identity_cert_expiration_timestamp_seconds"

_CLONE_NEWNET = 0x4000_0000


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


def on_the_link(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run an async test in virtual time, where instance a's address is there and nobody else's network."""

    @functools.wraps(test)
    def run() -> None:
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0  # this thread, and what it starts
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                subprocess.run(["ip", "address", "add", "169.254.77.1/32", "dev", "lo"], check=True)
                trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)
            except BaseException as problem:
                failure.append(problem)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would see the async one
    return run
