"""One process of ours that runs: looked after until it has ended, and ended when that is asked for.

Rules: it is told to end with SIGTERM and given its own patience and `SPARE` seconds more; only then it is killed. To
let go of it ends nothing. One task at a time waits for its end.
"""

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
from exclave.milestones import Withdrawing, tell
from exclave.proxy.process.logfile import bound_output, last_line, output_path
from exclave.proxy.published import PublishedProxy
from exclave.proxy.readiness import ReadinessWatcher
from exclave.proxy.states import Effect, Event

log = logging.getLogger(__name__)

SPARE = 2.0
"""Seconds between the end of the proxy's own patience and ours."""


class RunningProxy:
    """The process of one instance. It serves TLS for `server_name`; `drain` is its own patience at its end, seconds."""

    def __init__(
        self,
        views: PublishedProxy,
        instance: Instance,
        process: HeldProcess,
        runtime: Path,
        server_name: str,
        drain: float,
    ) -> None:
        self.instance = instance
        self.process = process
        self._views = views
        self._output = output_path(runtime, instance)
        self._server_name = server_name
        self._drain = drain
        self._dismissed = trio.Event()

    def dismiss(self) -> None:
        """Have it ended by whoever attends it."""
        self._dismissed.set()

    async def supervise(self, svid: Latest[Svid | None], now: Now) -> str:
        """Look after it until it has ended, whoever ended it; how, in words."""
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._watch, svid, now)
            nursery.start_soon(bound_output, self._output)
            nursery.start_soon(self._end_when_dismissed)
            status = await self.process.wait()
            nursery.cancel_scope.cancel()
        words = last_line(self._output)
        return f"proxy {self.instance} {describe_end(status)}{f': {words}' if words else ''}"

    async def end(self) -> None:
        """End it, within the bound; also one that was told before. Nobody else may attend it."""
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._end)
            await self.process.wait()
            nursery.cancel_scope.cancel()

    async def _watch(self, svid: Latest[Svid | None], now: Now) -> None:
        await self._do(await ReadinessWatcher(self._views, self.instance, self._server_name, svid, now).watch())

    async def _end_when_dismissed(self) -> None:
        await self._dismissed.wait()
        await self._end()

    async def _end(self) -> None:
        effects = self._views.step(self.instance, Event.DISMISSED)
        await self._do(effects or (Effect.TERMINATE,))  # one that was told before does not mind

    async def _do(self, effects: tuple[Effect, ...]) -> None:
        """Carry out effects; returns when the process has been killed, if it has not ended before."""
        for effect in effects:
            if effect is Effect.KILL:
                log.warning("proxy %s: did not end within %g s, so it is killed", self.instance, self._drain)
                self.process.send(signal.SIGKILL)
            elif effect is Effect.TERMINATE:
                self.process.send(signal.SIGTERM)
                tell(Withdrawing.TERMINATED)
                await trio.sleep(self._drain + SPARE)
                await self._do(self._views.step(self.instance, Event.BOUND_REACHED))


def describe_end(status: int | None) -> str:
    """How a process ended: `status` is its exit status, negative for a signal, None if nobody can know."""
    if status is None:
        return "ended (an earlier agent's child: nobody can know how)"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
