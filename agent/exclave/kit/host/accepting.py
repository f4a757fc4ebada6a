"""Accepts connections without end. A shortage of descriptors or memory is temporary: it ends no listener."""

import errno
import logging
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger(__name__)

SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN}
)  # of descriptors, memory, space and processes

SHORTAGE_HINT = "find what uses up this machine's descriptors, memory or processes; it is tried again"

PAUSE = 0.1  # seconds until the next attempt; until then, clients wait in the kernel's queue

LOG_INTERVAL = 60.0  # seconds between two log lines about the same subject: clients could fill the log


def is_shortage(problem: BaseException) -> bool:
    """True if a failure, or the OSError that caused it, is a shortage."""
    return any(getattr(one, "errno", None) in SHORTAGES for one in (problem, problem.__cause__))


class SparseLog:
    """Logs a warning at most once in LOG_INTERVAL, with the number of those that were left out."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._left_out = 0

    def warning(self, text: str, *values: object) -> None:
        """Log, or count."""
        now = trio.current_time()
        if self._last is not None and now - self._last < LOG_INTERVAL:
            self._left_out += 1
            return
        more = f" ({self._left_out} more in the meantime)" if self._left_out else ""
        self._last, self._left_out = now, 0
        log.warning(f"{text}%s", *values, more)


class Quota:
    """Counts open connections. `most`: the limit for each user; users that are not listed share the limit `others`."""

    def __init__(self, most: dict[int, int], others: int) -> None:
        self._most = most
        self._others = others
        self._open: dict[int | None, int] = {}

    def admit(self, uid: int) -> bool:
        """Count a connection of this user; False if the user has as many as allowed."""
        whose = uid if uid in self._most else None
        count = self._open.get(whose, 0)
        if count >= self._most.get(uid, self._others):
            return False
        self._open[whose] = count + 1
        return True

    def release(self, uid: int) -> None:
        """The connection, which was admitted, has ended."""
        self._open[uid if uid in self._most else None] -= 1


async def accept_connections(
    name: str,
    sock: trio.socket.SocketType,
    nursery: trio.Nursery,
    serve: Callable[[trio.SocketStream], Awaitable[None]],
    admit: Callable[[trio.SocketStream], bool],
) -> None:
    """Accept connections until cancelled. Each that `admit` accepts is served in `nursery`; others are closed at once.

    `serve` closes its connection and raises nothing. Raises OSError if the listener fails.
    """
    listener, shortage = trio.SocketListener(sock), SparseLog()
    while True:
        try:
            stream = await listener.accept()
        except OSError as problem:
            if problem.errno not in SHORTAGES:
                raise
            shortage.warning("%s: no connection can be accepted: %s", name, problem.strerror)
            await trio.sleep(PAUSE)
            continue
        if admit(stream):
            nursery.start_soon(serve, stream)
        else:
            await trio.aclose_forcefully(stream)
