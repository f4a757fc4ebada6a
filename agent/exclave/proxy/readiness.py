"""How what is known of an instance is kept true while it runs.

Rules: a new instance counts as certified when it serves exactly our certificate, and has `START_TIME` seconds for that.
From then on it may have traffic for as long as it answers, says ready, and holds a certificate that is valid: a renewal
that it has not served yet takes nothing away. Nobody is ended for being silent; an answer makes it ready again.
One that a policy keeps us from asking is no silent one: its certificate speaks for it. It is told if that lasts, since
a policy that is on its way ends it by itself.
"""

import logging
from dataclasses import replace
from typing import NoReturn

import trio

from exclave.identity.svid import Svid
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import ADMIN_PORT, Instance, instance_address
from exclave.milestones import Renewing, Starting, tell
from exclave.proxy.probe import ProbeResult, ProxyProbe, is_serving, open_probe
from exclave.proxy.published import PublishedProxy
from exclave.proxy.states import Effect, Event, State

log = logging.getLogger(__name__)

START_TIME = 30.0
"""Seconds that a new instance may take until it serves our certificate."""

SOON, SUSPECT, SELDOM = 0.1, 0.5, 2.0
"""Seconds between looks at an instance that is not ready, at one that has not answered or has a certificate to take,
and at one where all is well. That a process ends is not looked for: the kernel tells."""

METRICS_INTERVAL = 60.0
"""Seconds between looks at the metrics of an instance that serves the newest certificate."""

DENIED_TIME = 10.0
"""Seconds that a proxy may refuse to be asked before that is told: its policies are given as long to arrive."""

SILENT_POLLS = 3
"""Looks without an answer, in a row, after which an instance that runs counts as lost."""


class ReadinessWatcher:
    """Looks at one running instance, and publishes what it sees."""

    def __init__(
        self, views: PublishedProxy, instance: Instance, server_name: str, svid: Latest[Svid | None], now: Now
    ) -> None:
        self._views = views
        self._instance = instance
        self._server_name = server_name
        self._svid = svid
        self._now = now
        self._refused_since: float | None = None

    @property
    def state(self) -> State:
        """The instance's state."""
        return self._views.instances.value[self._instance].state

    async def watch(self) -> tuple[Effect, ...]:
        """Look for as long as it runs. Returns only if it is overdue, with what is to be done about that."""
        async with open_probe(instance_address(self._instance), ADMIN_PORT, self._server_name) as probe:
            if self.state is State.STARTING:
                with trio.move_on_after(START_TIME):
                    await self._wait_certified(probe)
            if self.state is State.STARTING:
                log.warning("proxy %s: not ready within %.0f s, so it is ended", self._instance, START_TIME)
                return self._views.step(self._instance, Event.OVERDUE)
            return await self._poll(probe)

    async def _wait_certified(self, probe: ProxyProbe) -> None:
        while True:
            result = await probe.query(with_metrics=True)
            self._note(result)
            if result is not None and is_serving(result, self._svid.value):
                self._views.step(self._instance, Event.CERTIFIED)
                tell(Starting.PROXY_READY)
                return
            await trio.sleep(SOON)

    async def _poll(self, probe: ProxyProbe) -> NoReturn:
        """Keep its readiness true to what it says."""
        silent, measured, served = 0, -METRICS_INTERVAL, None
        while True:
            newest = self._svid.value
            due = newest is not served or trio.current_time() - measured >= METRICS_INTERVAL
            result = await probe.query(with_metrics=due)
            self._note(result)
            silent = 0 if result is not None else silent + 1
            if result is not None and result.expires is not None:
                measured = trio.current_time()
                if is_serving(result, newest) and newest is not served:
                    served = newest
                    tell(Renewing.PROVEN)
            if silent == 0 or silent >= SILENT_POLLS:
                self._publish_ready(result)
            is_calm = silent == 0 and served is newest
            with trio.move_on_after(self._pause(is_calm=is_calm)):
                await self._svid.wait_for(lambda svid, newest=newest: svid is not newest)  # type: ignore[misc]

    def _pause(self, *, is_calm: bool) -> float:
        if not self._views.instances.value[self._instance].is_ready:
            return SOON
        return SELDOM if is_calm else SUSPECT

    def _note(self, result: ProbeResult | None) -> None:
        view, now = self._views.instances.value[self._instance], trio.current_time()
        if result is None:
            return
        if not result.is_admin_denied:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        is_admin_denied = self._refused_since is not None and now - self._refused_since >= DENIED_TIME
        expires = view.certificate_expires if result.expires is None else result.expires
        self._views.change(self._instance, replace(view, certificate_expires=expires, is_admin_denied=is_admin_denied))

    def _publish_ready(self, result: ProbeResult | None) -> None:
        view = self._views.instances.value[self._instance]
        expires, not_ready_because = view.certificate_expires, None
        if result is None:
            not_ready_because = f"proxy {self._instance} runs, and does not answer"
        elif result.is_admin_denied and not result.is_ready:
            not_ready_because = f"proxy {self._instance} lets nobody ask, and shows no certificate"
        elif not result.is_ready:
            not_ready_because = f"proxy {self._instance} says that it is not ready"
        elif expires is None or expires <= self._now():
            not_ready_because = f"proxy {self._instance} has no certificate that is valid"
        self._views.change(
            self._instance, replace(view, is_ready=not_ready_because is None, not_ready_because=not_ready_because)
        )
