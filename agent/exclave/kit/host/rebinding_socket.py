"""A socket that is bound again after each failure. `supervise` runs `serve` again."""

from collections.abc import Awaitable, Callable

import trio

Socket = trio.socket.SocketType


class ReopenedSocket:
    """Serves a socket made by `bind`, and a new one after each failure. The first is bound at once, to fail early."""

    def __init__(self, bind: Callable[[], Socket], serve: Callable[[Socket], Awaitable[None]]) -> None:
        self._bind = bind
        self._serve = serve
        self._socket: Socket | None = bind()

    async def serve(self) -> None:
        """Serve until an error. Raises what serving or binding raises."""
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
