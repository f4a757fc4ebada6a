"""One running process of an instance: publishes its readiness until it has ended, and ends it on request.

A new instance is certified once it serves exactly our certificate. From then on it may have traffic while it answers,
is ready and has a valid certificate. An instance is never ended for not answering.
"""

import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import trio

from exclave.identity.svid import Svid
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import ADMIN_PORT, Instance, instance_address
from exclave.milestones import Renewing, Starting, Withdrawing, log_milestone
from exclave.proxy.probe import ProbeResult, ProxyProbe, is_serving, open_probe
from exclave.proxy.process.held import KILL_TIME, InstanceProcess
from exclave.proxy.process.logfile import bound_output, output_path
from exclave.proxy.published import InstanceView, PublishedProxy
from exclave.proxy.states import InstanceEffect, InstanceEvent, InstanceState

log = logging.getLogger(__name__)

KILL_DELAY = 2.0  # seconds from the end of the proxy's own grace period to SIGKILL


START_TIME = 30.0  # seconds in which a new instance must serve our certificate

NOT_READY_INTERVAL, SUSPECT_INTERVAL, READY_INTERVAL = 0.1, 0.5, 2.0
"""Seconds between two probes: of an instance that is not ready; of one that did not answer the last probe or does not
serve the newest certificate yet; of any other. The kernel reports the end of a process."""

METRICS_INTERVAL = 60.0  # seconds between two reads of the metrics of an instance that serves the newest certificate

DENIED_TIME = 10.0  # seconds of denied requests before a report: a pending policy usually ends them earlier

SILENT_PROBES = 3  # unanswered probes in a row after which a running instance is not ready


class RunningProxy:
    """The process of one instance. It serves TLS for `server_name`; `drain` is its grace period in seconds."""

    def __init__(
        self,
        published: PublishedProxy,
        instance: Instance,
        process: InstanceProcess,
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
        """Supervise it until it has ended; returns how it ended, for a person."""
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._watch, svid, now)
            nursery.start_soon(bound_output, self._output)
            nursery.start_soon(self._end_when_dismissed)
            end = await self.process.wait()
            nursery.cancel_scope.cancel()
        return f"proxy {self.instance} {end}"

    async def end(self) -> None:
        """End it, by SIGKILL if necessary. Not while `supervise` runs: only one task may wait for a process.

        Returns without its end if it does not end by SIGKILL, or if that cannot be sent.
        """
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._end_within_limit, nursery.cancel_scope)
            await self.process.wait()
            nursery.cancel_scope.cancel()

    async def _end_within_limit(self, waiting: trio.CancelScope) -> None:
        await self._end()
        await trio.sleep(KILL_TIME)
        log.error("proxy %s: process %d was killed and does not end", self.instance, self.process.pid)
        waiting.cancel()

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
                await self.process.send(signal.SIGKILL)
            elif effect is InstanceEffect.TERMINATE:
                await self.process.send(signal.SIGTERM)
                log_milestone(Withdrawing.TERMINATED)
                await trio.sleep(self._drain + KILL_DELAY)  # cancelled when the process ends
                await self._apply(self._published.apply_event(self.instance, InstanceEvent.BOUND_REACHED))


class ReadinessWatcher:
    """Probes one running instance and publishes the results."""

    def __init__(
        self, published: PublishedProxy, instance: Instance, server_name: str, svid: Latest[Svid | None], now: Now
    ) -> None:
        self._published = published
        self._instance = instance
        self._server_name = server_name
        self._svid = svid
        self._now = now
        self._denied_since: float | None = None

    @property
    def view(self) -> InstanceView:
        """The instance's published view."""
        return self._published.instances.value[self._instance]

    async def watch(self) -> tuple[InstanceEffect, ...]:
        """Probe while the instance runs. Returns only if it was not certified in time: the effects to execute."""
        async with open_probe(instance_address(self._instance), ADMIN_PORT, self._server_name) as probe:
            if self.view.state is InstanceState.STARTING:
                with trio.move_on_after(START_TIME):
                    await self._wait_certified(probe)
            if self.view.state is InstanceState.STARTING:
                log.warning("proxy %s: not ready within %.0f s, so it is ended", self._instance, START_TIME)
                return self._published.apply_event(self._instance, InstanceEvent.OVERDUE)
            return await self._poll(probe)

    async def _wait_certified(self, probe: ProxyProbe) -> None:
        while True:
            result = await probe.query(with_metrics=True)
            self._publish_result(result)
            if result is not None and is_serving(result, self._svid.value):
                self._published.apply_event(self._instance, InstanceEvent.CERTIFIED)
                log_milestone(Starting.PROXY_READY)
                return
            await trio.sleep(NOT_READY_INTERVAL)

    async def _poll(self, probe: ProxyProbe) -> NoReturn:
        silent, measured_at, proven = 0, -METRICS_INTERVAL, None
        while True:
            newest = self._svid.value
            is_due = newest is not proven or trio.current_time() - measured_at >= METRICS_INTERVAL
            result = await probe.query(with_metrics=is_due)
            self._publish_result(result)
            silent = 0 if result is not None else silent + 1
            if result is not None and result.expires is not None:
                measured_at = trio.current_time()
                if is_serving(result, newest) and newest is not proven:
                    proven = newest
                    log_milestone(Renewing.PROVEN)
            if silent == 0 or silent >= SILENT_PROBES:
                self._publish_ready(result)
            is_suspect = silent > 0 or proven is not newest
            with trio.move_on_after(self._interval(is_suspect=is_suspect)):
                await self._svid.wait_for(lambda svid, newest=newest: svid is not newest)  # type: ignore[misc]

    def _interval(self, *, is_suspect: bool) -> float:
        if not self.view.is_ready:
            return NOT_READY_INTERVAL
        return SUSPECT_INTERVAL if is_suspect else READY_INTERVAL

    def _publish_result(self, result: ProbeResult | None) -> None:
        if result is None:
            return
        self._published.answered[self._instance] = self._now()
        view, now = self.view, trio.current_time()
        if not result.is_admin_denied:
            self._denied_since = None
        elif self._denied_since is None:
            self._denied_since = now
        is_denied = self._denied_since is not None and now - self._denied_since >= DENIED_TIME
        expires = view.certificate_expires if result.expires is None else result.expires
        self._published.change(self._instance, replace(view, certificate_expires=expires, is_admin_denied=is_denied))

    def _publish_ready(self, result: ProbeResult | None) -> None:
        view, name = self.view, f"proxy {self._instance}"
        expires, reason = view.certificate_expires, None
        if result is None:
            reason = f"{name} runs, but does not answer"
        elif result.is_admin_denied and not result.is_ready:
            reason = f"{name} denies requests on its admin port, and serves no certificate"
        elif not result.is_ready:
            reason = f"{name} reports that it is not ready"
        elif expires is None or expires <= self._now():
            # A renewed certificate that it does not serve yet does not count: the former one is still valid.
            reason = f"{name} has no valid certificate"
        self._published.change(self._instance, replace(view, is_ready=reason is None, not_ready_because=reason))
