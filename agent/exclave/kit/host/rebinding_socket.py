"""A socket that is bound again after each failure. `supervise` runs `serve` again."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from exclave.kit.tasks.nursery import open_bare_nursery

WATCH_INTERVAL = 5.0  # seconds between two checks of a socket's path

Socket = trio.socket.SocketType


class ReopenedSocket:
    """Serves a socket made by `bind`, and a new one after each failure. The first is bound at once, to fail early.

    `path`: of a unix socket. One that somebody has removed counts as a failure.
    """

    def __init__(
        self, bind: Callable[[], Socket], serve: Callable[[Socket], Awaitable[None]], path: Path | None = None
    ) -> None:
        self._bind = bind
        self._serve = serve
        self._path = path
        self._socket: Socket | None = bind()

    async def serve(self) -> None:
        """Serve until an error. Raises what serving or binding raises, and OSError if the path is gone."""
        if self._socket is None:
            await trio.lowlevel.checkpoint()
            self._socket = self._bind()
        try:
            if self._path is None:
                await self._serve(self._socket)
                return
            async with open_bare_nursery() as nursery:
                nursery.start_soon(_watch, self._path)
                await self._serve(self._socket)
                nursery.cancel_scope.cancel()
        finally:
            self.close()

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _watch(path: Path) -> None:
    while path.is_socket():  # noqa: ASYNC110  there may be no folder that could be watched
        await trio.sleep(WATCH_INTERVAL)
    raise OSError(f"somebody has removed {path}")
