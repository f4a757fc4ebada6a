"""A socket that is served for as long as its part lives, and bound again whenever serving it has failed.

Rules: the first one is bound by the door, so that what stands in its way is told at once; each later one by the part,
whose failure `supervise` turns into another try. A socket that was served is closed, however that ended.
"""

from collections.abc import Awaitable, Callable

import trio

Socket = trio.socket.SocketType


class ReopenedSocket:
    """`serve`, supervised, serves the first socket, and one of `reopen` after each failure."""

    def __init__(
        self, first: Socket, reopen: Callable[[], Awaitable[Socket]], serve: Callable[[Socket], Awaitable[None]]
    ) -> None:
        self._held: Socket | None = first
        self._reopen = reopen
        self._serve = serve

    async def serve(self) -> None:
        """Serve until that fails. Raises what serving or binding raises."""
        if self._held is None:
            self._held = await self._reopen()
        try:
            await self._serve(self._held)
        finally:
            self.close()

    def close(self) -> None:
        """Close what is held, as often as one likes."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
