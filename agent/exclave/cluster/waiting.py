"""Waiting that is not silent: what the cluster's users wait for, once it takes long.

Rules: a wait opens when something is asked of the cluster and closes when it is there; after `QUIET` seconds it is
logged once and published, with the newest reason; when it is over, that is logged too. Short waits leave no trace.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from exclave.kit.tasks.latest import Latest

log = logging.getLogger(__name__)

QUIET = 15.0
"""Seconds that a wait may last without being mentioned."""


class Wait:
    """One wait: for `what`, since `since` (monotonic seconds), because of `reason`; `is_logged` once it was logged."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.since = trio.current_time()
        self.reason = "no answer yet"
        self.is_logged = False

    @property
    def text(self) -> str:
        """A line for a person."""
        return f"{self.what}: {self.reason}"


class Waits:
    """All waits of one cluster; `latest` is the line of the oldest that has become long, or None."""

    def __init__(self) -> None:
        self.latest: Latest[str | None] = Latest(None)
        self._pending: list[Wait] = []  # oldest first
        self._changed = trio.Event()

    @contextmanager
    def over(self, what: str) -> Iterator[Wait]:
        """Note that the caller waits for `what` as long as the block runs."""
        wait = self.begin(what)
        try:
            yield wait
        finally:
            self.end(wait)

    def begin(self, what: str) -> Wait:
        """Note a wait that `end` closes."""
        wait = Wait(what)
        self._pending.append(wait)
        self._changed.set()
        return wait

    def end(self, wait: Wait) -> None:
        """Close a wait."""
        self._pending.remove(wait)
        if wait.is_logged:
            log.info("no longer waiting after %.0f s: %s", trio.current_time() - wait.since, wait.what)
        self._changed.set()

    def explain(self, wait: Wait, reason: str) -> None:
        """Say why the wait goes on."""
        wait.reason = reason
        self._changed.set()

    async def announce(self) -> None:
        """Log and publish the waits that have become long, for ever."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            long = [wait for wait in self._pending if now - wait.since >= QUIET]
            for wait in long:
                if not wait.is_logged:
                    wait.is_logged = True
                    log.warning("waiting for %.0f s %s", now - wait.since, wait.text)
            self.latest.set(long[0].text if long else None)
            due = min((wait.since + QUIET for wait in self._pending if not wait.is_logged), default=math.inf)
            with trio.move_on_at(due):
                await self._changed.wait()
