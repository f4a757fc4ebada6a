"""One running process of an instance: supervised until it has ended, and ended on request."""

import logging
import signal
from pathlib import Path

import trio

from exclave.identity.svid import Svid
from exclave.kit.host.gated import HeldProcess
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import Instance
from exclave.milestones import Withdrawing, log_milestone
from exclave.proxy.process.logfile import bound_output, last_line, output_path
from exclave.proxy.published import PublishedProxy
from exclave.proxy.readiness import ReadinessWatcher
from exclave.proxy.states import InstanceEffect, InstanceEvent

log = logging.getLogger(__name__)

KILL_DELAY = 2.0
"""Seconds from the end of the proxy's own grace period to SIGKILL."""


class RunningProxy:
    """The process of one instance. It serves TLS for `server_name`; `drain` is its grace period in seconds."""

    def __init__(
        self,
        published: PublishedProxy,
        instance: Instance,
        process: HeldProcess,
        runtime: Path,
        server_name: str,
        drain: float,
    ) -> None:
        self.instance = instance
        self.process = process
        self._published = published
        self._output = output_path(runtime, instance)
        self._server_name = server_name
        self._drain = drain
        self._dismissed = trio.Event()

    def dismiss(self) -> None:
        """Let `supervise` end it."""
        self._dismissed.set()

    async def supervise(self, svid: Latest[Svid | None], now: Now) -> str:
        """Supervise it until it has ended, for whatever reason; how it ended, for a person."""
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._watch, svid, now)
            nursery.start_soon(bound_output, self._output)
            nursery.start_soon(self._end_when_dismissed)
            status = await self.process.wait()
            nursery.cancel_scope.cancel()
        line = last_line(self._output)
        return f"proxy {self.instance} {describe_end(status)}{f': {line}' if line else ''}"

    async def end(self) -> None:
        """End it, by SIGKILL if need be. Only one task may wait for a process, so not while `supervise` runs."""
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._end)
            await self.process.wait()
            nursery.cancel_scope.cancel()

    async def _watch(self, svid: Latest[Svid | None], now: Now) -> None:
        watcher = ReadinessWatcher(self._published, self.instance, self._server_name, svid, now)
        await self._apply(await watcher.watch())

    async def _end_when_dismissed(self) -> None:
        await self._dismissed.wait()
        await self._end()

    async def _end(self) -> None:
        effects = self._published.apply_event(self.instance, InstanceEvent.DISMISSED)
        await self._apply(effects or (InstanceEffect.TERMINATE,))  # a second SIGTERM does no harm

    async def _apply(self, effects: tuple[InstanceEffect, ...]) -> None:
        for effect in effects:
            if effect is InstanceEffect.KILL:
                log.warning("proxy %s: did not end within %g s, so it is killed", self.instance, self._drain)
                self.process.send(signal.SIGKILL)
            elif effect is InstanceEffect.TERMINATE:
                self.process.send(signal.SIGTERM)
                log_milestone(Withdrawing.TERMINATED)
                await trio.sleep(self._drain + KILL_DELAY)  # cancelled when the process ends
                await self._apply(self._published.apply_event(self.instance, InstanceEvent.BOUND_REACHED))


def describe_end(status: int | None) -> str:
    """How a process ended: `status` is its exit status, negative for a signal, None if it is unknown."""
    if status is None:
        return "ended (an earlier agent started it, so its exit status is unknown)"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
