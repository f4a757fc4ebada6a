"""Keeps the table `inet exclave-private` in the kernel: it opens before the private link, and closes after it."""

import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave.kit.host.command import run_tool
from exclave.kit.tasks.backoff import FIGHT, pause_after
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import PRIVATE_TABLE
from exclave.milestones import Starting, Withdrawing, log_milestone
from exclave.redirect.kernel.monitor import Monitor, open_monitor
from exclave.redirect.kernel.nft import load_rules
from exclave.redirect.reconciler import CHECK_INTERVAL, POLL_INTERVAL, REMOVAL_TIME
from exclave.redirect.rules.private import render_private, render_private_removal

log = logging.getLogger(__name__)

ROOT = 0  # the agent's user: it answers as DNS stub and as trial listener


class PrivateTable:
    """The table as loaded. `problem`: why it is not in the kernel; `repairs`: number of foreign changes undone."""

    def __init__(self, proxy_uid: int, monitor: Monitor) -> None:
        self.problem: Latest[HostError | None] = Latest(None)
        self.repairs = 0
        self._rules = render_private((ROOT, proxy_uid))
        self._monitor = monitor
        self._listed: str | None = None  # the table as nft listed it after it was loaded
        self._repaired: deque[float] = deque(maxlen=FIGHT)

    async def load(self) -> None:
        """Load the table. Raises HostError."""
        await load_rules(self._rules)
        self._listed = await _list_table()

    async def repair(self) -> None:
        """Load the table again if others have changed it. Raises HostError."""
        if self._monitor.pop_removed() or self._listed is None or await _list_table() != self._listed:
            author = self._monitor.pop_author()
            self._repaired.append(trio.current_time())
            await self.load()
            self.repairs += 1
            by = f" ({author})" if author else ""
            log.warning("redirect: another program changed the private link's rules%s; they are restored", by)
        self._monitor.pop_author()  # the last change was our own, or there was none
        self.problem.set(None)

    async def run(self) -> None:
        """Repair the table whenever it changes, until cancelled; never raises HostError."""
        async with open_any_change(self._monitor.changes, self._monitor.is_listening) as change:
            while True:
                try:
                    await self.repair()
                except HostError as problem:
                    if self.problem.value is None:
                        log.error("redirect: the private link's rules: %s (%s)", problem.message, problem.hint)
                    self.problem.set(problem)
                await trio.sleep(pause_after(self._repaired, trio.current_time()))
                is_calm = self._monitor.is_listening.value and self.problem.value is None
                await change.wait(CHECK_INTERVAL if is_calm else POLL_INTERVAL)


@asynccontextmanager
async def open_private_table(proxy_uid: int, endings: EndingSwitch) -> AsyncIterator[PrivateTable]:
    """Have the table in the kernel while open; on hand-over it stays. `proxy_uid`: the proxy's user.

    Raises HostError if it cannot be loaded or removed.
    """
    async with open_monitor(PRIVATE_TABLE) as monitor:  # first, so that no change after the load is missed
        table = PrivateTable(proxy_uid, monitor)
        await table.load()
        log_milestone(Starting.PRIVATE)
        try:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(supervise, "private link's rules", table.run)
                yield table
                nursery.cancel_scope.cancel()
        finally:
            if endings.value is not Ending.HAND_OVER:
                with shielded(REMOVAL_TIME):
                    await remove_private_table()


async def remove_private_table() -> None:
    """Remove the table, which may be absent. Needs no agent. Remove the link before. Raises HostError."""
    await load_rules(render_private_removal())
    log_milestone(Withdrawing.PRIVATE)


async def has_private_table() -> bool:
    """True if the table is in the kernel. Raises HostError."""
    return await _list_table() is not None


async def _list_table() -> str | None:
    """The table without counters, as nft lists it; None if there is none. Raises HostError."""
    listed = await run_tool("nft", "-s", "list", "table", "inet", PRIVATE_TABLE)
    return listed.output.decode("utf-8", "replace") if listed.status == 0 else None
