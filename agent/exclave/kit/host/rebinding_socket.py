"""A socket that is bound again whenever serving it has failed.

The door makes it, so that a port in use is an error at once; `supervise` runs `serve` again after each failure.
"""

from collections.abc import Awaitable, Callable

import trio

Socket = trio.socket.SocketType


class ReopenedSocket:
    """Serves a socket of `bind`, and another one after each failure. The first is bound at once."""

    def __init__(self, bind: Callable[[], Socket], serve: Callable[[Socket], Awaitable[None]]) -> None:
        self._bind = bind
        self._serve = serve
        self._socket: Socket | None = bind()

    async def serve(self) -> None:
        """Serve until that fails. Raises what serving or binding raises."""
        if self._socket is None:
            await trio.lowlevel.checkpoint()
            self._socket = self._bind()
        try:
            await self._serve(self._socket)
        finally:
            self.close()

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
