"""Publishes the assessment of the data path. It only observes: daemon/wanted_rules changes the rules."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import trio

from exclave.api.group import FailurePolicy
from exclave.data_path.assessment import Assessment, DataPathFacts, DataPathHistory, adopted_history, assess
from exclave.data_path.control_plane import ControllerSample, ControlPlaneHealth, sample_connections, sample_controllers
from exclave.identity.rotator import Identity
from exclave.kit.host.plain_http import open_plain_client
from exclave.kit.host.procfs import read_tcp_tables
from exclave.kit.host.sockets import read_sockets
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import LONGEST_NAP, Now
from exclave.link.layout import ADMIN_PORT, Instance, instance_address
from exclave.member.client import MemberClient
from exclave.proxy.instance import Proxy

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two assessments while there is a fault
POLL_INTERVAL = 5.0  # seconds between two reads of the proxy's metrics; `TICK` during a fault
METRICS_TIMEOUT = 2.0  # seconds for one metrics page


class DataPathObserver:
    """Publishes `assessment`, which stays if this part fails. Made by `open_data_path`."""

    def __init__(self, membership: MemberClient, identity: Identity, proxy: Proxy, now: Now) -> None:
        self.assessment: Latest[Assessment] = Latest(Assessment())
        self.lookups: Latest[bool | None] = Latest(None)  # whether Linkerd's controllers answer; None: unknown
        self.has_destinations: Latest[bool] = Latest(False)  # whether the proxy ever had an answer of the destinations
        self.rules: Latest[bool] = Latest(True)  # set by the daemon: whether the kernel has accepted the rules
        self.link: Latest[bool] = Latest(True)  # set by the daemon: whether the private link is whole
        self._membership = membership
        self._identity = identity
        self._proxy = proxy
        self._now = now
        # Processes with destinations. Adopted ones may have some: the proxy drops metrics that were not used for long.
        self._pids = {view.pid for view in proxy.instances.value.values() if view.is_adopted}
        self._history = adopted_history(trio.current_time()) if self._pids else DataPathHistory()
        self.has_destinations.set(bool(self._pids))

    async def run_assessment(self) -> None:
        """Assess at every change, and every `TICK` seconds while there is a fault, until cancelled."""
        membership, identity, proxy = self._membership, self._identity, self._proxy
        sources = (
            membership.settings,
            identity.svid,
            proxy.ready,
            self.lookups,
            self.has_destinations,
            self.rules,
            self.link,
        )
        async with open_any_change(*sources) as change:
            while True:
                self.assess_now()
                await change.wait(self._pause())

    def assess_now(self) -> Assessment:
        """Assess now, for a reader that the same change woke before `run_assessment`."""
        svid, settings = self._identity.svid.value, self._membership.settings.value
        policy = settings.group.failure if settings else FailurePolicy()
        facts = DataPathFacts(
            certificate=svid is not None and self._now() < svid.not_after,
            proxy=self._proxy.ready.value is not None,
            rules=self.rules.value,
            lookups=self.lookups.value,
            has_destinations=self.has_destinations.value,
            link=self.link.value,
        )
        self._history = self._history.observe(facts, trio.current_time(), policy.after)
        assessment, before = assess(self._history, facts, policy), self.assessment.value
        if assessment.trace != before.trace:
            log.log(logging.WARNING if assessment.reason else logging.INFO, "data path: %s", assessment.trace)
        self.assessment.set(assessment)
        return assessment

    def _pause(self) -> float:
        if self.assessment.value.reason is not None:
            return TICK
        svid = self._identity.svid.value
        return min(LONGEST_NAP, max(0.0, svid.not_after - self._now())) if svid is not None else LONGEST_NAP

    async def watch_control_plane(self) -> None:
        """Observe whether Linkerd's controllers answer the proxy, until cancelled."""
        while True:
            # Own calls to them would be thousands a second in a fleet, and not show whether the proxy reaches them.
            instance = await self._proxy.ready.wait_for(lambda instance: instance is not None)
            assert instance is not None
            await self._poll_instance(instance_address(instance), instance)

    async def _poll_instance(self, address: str, instance: Instance) -> None:
        health = ControlPlaneHealth()
        async with open_plain_client(address, ADMIN_PORT, METRICS_TIMEOUT) as client:
            while self._proxy.ready.value == instance:
                samples: dict[str, ControllerSample] = {}
                is_shown = False
                try:
                    response = await client.get("/metrics")
                except httpx.HTTPError:
                    pass  # the ReadinessWatcher reports a proxy that does not answer
                else:
                    is_shown = response.status_code == 200
                    samples = sample_controllers(response.text) if is_shown else await self._sample_connections()
                health = health.observe(samples, trio.current_time())
                self._observe_destinations(instance, samples.get("destination"), is_shown=is_shown)
                found = health.is_available(trio.current_time())
                if found is not None:
                    self.lookups.set(found)
                with trio.move_on_after(POLL_INTERVAL if health.is_settled else TICK):
                    await self._proxy.ready.wait_for(lambda newest: newest != instance)

    def _observe_destinations(self, instance: Instance, sample: ControllerSample | None, *, is_shown: bool) -> None:
        view = self._proxy.instances.value.get(instance)
        if view is None or sample is None:
            return
        # The kernel shows no answers, so a connection counts as one: the proxy connects in order to ask.
        if sample.answered if is_shown else sample.connected:
            self._pids.add(view.pid)
        self.has_destinations.set(view.pid in self._pids)

    async def _sample_connections(self) -> dict[str, ControllerSample]:
        settings = self._membership.settings.value
        if settings is None:
            return {}
        tables = await trio.to_thread.run_sync(read_tcp_tables)
        sockets = [socket for table in tables for socket in read_sockets(table)]
        plane = settings.control_plane
        return sample_connections(sockets, self._proxy.uid, plane.destination, plane.policy)


@asynccontextmanager
async def open_data_path(
    membership: MemberClient, identity: Identity, proxy: Proxy, now: Now
) -> AsyncIterator[DataPathObserver]:
    """Assess the data path while open."""
    data_path = DataPathObserver(membership, identity, proxy, now)
    data_path.assess_now()
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "data path", data_path.run_assessment)
        nursery.start_soon(supervise, "control plane", data_path.watch_control_plane)
        yield data_path
        nursery.cancel_scope.cancel()
