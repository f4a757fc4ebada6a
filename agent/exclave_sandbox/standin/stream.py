"""Streams of the stand-in proxy: peeking at first bytes, relaying bytes both ways, and draining.

Rules: the end of one direction is passed on where the stream can do so (TLS cannot, in trio), and the other direction
goes on for a while. An idle connection ends as soon as draining begins.
"""

import contextlib
import socket
from collections.abc import Iterator

import trio

from exclave_sandbox.standin.settings import Address
from exclave_sandbox.standin.wire import is_http1, may_be_http1, read_original

PIECE = 65536
DETECTION = 10.0  # seconds to wait for the client's first bytes; then the server speaks first. As linkerd2-proxy.
AFTERMATH = 30.0  # seconds that one direction goes on after an end of the other that could not be passed on
CONNECT = 3.0  # seconds to connect
SO_ORIGINAL_DST = 80
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)  # of a connection


class PeekedStream(trio.abc.Stream):
    """A stream whose peeked bytes are read again."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._first = b""
        self._ended = False

    async def peek(self, least: int) -> bytes:
        """Wait for at least this many bytes, the end, or DETECTION seconds; the bytes so far, which stay unread."""
        with trio.move_on_after(DETECTION):
            while len(self._first) < least and not self._ended:
                received = await self._stream.receive_some(PIECE)
                self._first += received
                self._ended = not received
        return self._first

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes, beginning with the peeked ones."""
        if self._first:
            size = len(self._first) if max_bytes is None else max_bytes
            peeked, self._first = self._first[:size], self._first[size:]
            return peeked
        return b"" if self._ended else bytes(await self._stream.receive_some(max_bytes))

    async def receive_exactly(self, size: int) -> bytes:
        """Exactly this many bytes. Raises trio.BrokenResourceError at an earlier end."""
        received = b""
        while len(received) < size:
            piece = await self.receive_some(size - len(received))
            if not piece:
                raise trio.BrokenResourceError("cut off")
            received += piece
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> bool:
        """End the sending side; False if this stream cannot."""
        return await send_eof(self._stream)

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()


async def speaks_http1(stream: PeekedStream) -> bool:
    """True if this is HTTP/1, by peeking at as many bytes as that needs."""
    start = b""
    while may_be_http1(start):
        longer = await stream.peek(len(start) + 1)
        if longer == start:
            break  # its end, or its client waits for the server
        start = longer
    return is_http1(start)


class Drain:
    """Counts open connections, and ends idle ones when draining begins."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.empty = trio.Event()
        self._open = 0
        self._idle: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """End idle connections now, and busy ones after their work."""
        self.begun.set()
        for scope in self._idle:
            scope.cancel()
        self._check_empty()

    @property
    def is_draining(self) -> bool:
        """True if draining has begun."""
        return self.begun.is_set()

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Count a connection while open."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._check_empty()

    @contextlib.contextmanager
    def idle(self) -> Iterator[trio.CancelScope]:
        """A wait that draining cancels."""
        with trio.CancelScope() as scope:
            if self.is_draining:
                scope.cancel()
            self._idle.add(scope)
            try:
                yield scope
            finally:
                self._idle.discard(scope)

    def _check_empty(self) -> None:
        if self.is_draining and self._open == 0:
            self.empty.set()


async def send_eof(stream: trio.abc.Stream) -> bool:
    """End the sending side; False if this kind of stream cannot."""
    if isinstance(stream, trio.SocketStream):
        await stream.send_eof()
        return True
    return await stream.send_eof() if isinstance(stream, PeekedStream) else False


async def relay(left: trio.abc.Stream, right: trio.abc.Stream) -> None:
    """Relay bytes both ways until both have ended, or either breaks."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_relay_one_way, left, right, nursery.cancel_scope)
        nursery.start_soon(_relay_one_way, right, left, nursery.cancel_scope)


async def _relay_one_way(source: trio.abc.Stream, sink: trio.abc.Stream, both: trio.CancelScope) -> None:
    try:
        while received := await source.receive_some(PIECE):
            await sink.send_all(received)
        if not await send_eof(sink):
            both.deadline = min(both.deadline, trio.current_time() + AFTERMATH)
    except BROKEN:
        both.cancel()


async def connect(address: Address) -> trio.SocketStream:
    """Connect within CONNECT seconds. Raises OSError or trio.TooSlowError."""
    with trio.fail_after(CONNECT):
        return await trio.open_tcp_stream(*address)


def original_destination(stream: trio.SocketStream) -> Address | None:
    """The destination before the kernel's redirect; None if there was none."""
    is_ipv6 = stream.socket.family == socket.AF_INET6
    level, size = (socket.IPPROTO_IPV6, 28) if is_ipv6 else (socket.IPPROTO_IP, 16)
    try:
        return read_original(stream.socket.getsockopt(level, SO_ORIGINAL_DST, size))
    except OSError:
        return None
