"""The door: the data path is judged, once, for whoever acts on it or tells of it.

Rules: it is judged at every change, and every `TICK` seconds while anything is not as it should be. Whether Linkerd's
controllers answer is read in the metrics of the proxy that has traffic, every `LOOK_EVERY` seconds, and every second
while they do not; in the kernel's connections where a policy lets nobody see the metrics. We do not call the
controllers ourselves: that would be thousands of calls a second from a large fleet, and would say whether we reach
them, not whether the proxy does. A change is logged once. Nothing here touches traffic: `steering` does, and keeps the
last judgement if this part has fallen over and comes back.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import trio

from exclave.api.settings import FailurePolicy
from exclave.data_path.assessment import Courses, Facts, Judgement, adopted_at, judge
from exclave.data_path.control_plane import Reading, Witnesses, read_connections, read_controllers
from exclave.identity.rotator import Identity
from exclave.kit.host.plain_http import open_plain_client
from exclave.kit.host.procfs import read_tcp_tables
from exclave.kit.host.sockets import read_sockets
from exclave.kit.tasks.any_change import open_changed
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import LONGEST_NAP, Now
from exclave.link.layout import ADMIN_PORT, instance_address
from exclave.member.client import Membership
from exclave.proxy.instance import Proxy

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two judgements while something is lost."""

LOOK_EVERY = 5.0
"""Seconds between two looks at the proxy's metrics."""

PATIENCE = 2.0
"""Seconds for one of them."""


class Failing:
    """The judgement. `rules` is told by whoever keeps them: whether the kernel takes them. Made by `open_failing`."""

    def __init__(self, membership: Membership, identity: Identity, proxy: Proxy, now: Now) -> None:
        self.judgement: Latest[Judgement] = Latest(Judgement())
        self.lookups: Latest[bool | None] = Latest(None)
        self.rules: Latest[bool] = Latest(True)
        self._membership = membership
        self._identity = identity
        self._proxy = proxy
        self._now = now
        is_adopted = any(view.is_adopted for view in proxy.instances.value.values())
        self._courses = adopted_at(trio.current_time()) if is_adopted else Courses()

    async def keep_judging(self) -> None:
        """Keep the judgement true, for ever."""
        membership, identity, proxy = self._membership, self._identity, self._proxy
        sources = (membership.settings, identity.svid, proxy.ready, self.lookups, self.rules)
        async with open_changed(*sources) as changed:
            while True:
                seen = changed.value
                self.judge_now()
                with trio.move_on_after(self._pause()):
                    await changed.wait_for(lambda count, seen=seen: count != seen)  # type: ignore[misc]

    def judge_now(self) -> Judgement:
        """The judgement as of this moment, for whoever has woken up before us."""
        svid, settings = self._identity.svid.value, self._membership.settings.value
        policy = settings.group.failure if settings else FailurePolicy()
        facts = Facts(
            certificate=svid is not None and self._now() < svid.not_after,
            proxy=self._proxy.ready.value is not None,
            rules=self.rules.value,
            lookups=self.lookups.value,
        )
        self._courses = self._courses.see(facts, trio.current_time(), policy.after)
        judgement, before = judge(self._courses, facts, policy), self.judgement.value
        if judgement.trace != before.trace:
            log.log(logging.WARNING if judgement.reason else logging.INFO, "data path: %s", judgement.trace)
        self.judgement.set(judgement)
        return judgement

    def _pause(self) -> float:
        if self.judgement.value.reason is not None:
            return TICK
        svid = self._identity.svid.value
        return min(LONGEST_NAP, max(0.0, svid.not_after - self._now())) if svid is not None else LONGEST_NAP

    async def keep_looking(self) -> None:
        """Keep looking whether Linkerd's controllers answer the proxy, for ever."""
        while True:
            instance = await self._proxy.ready.wait_for(lambda instance: instance is not None)
            assert instance is not None
            await self._look_at(instance_address(instance), instance)

    async def _look_at(self, address: str, instance: str) -> None:
        """Look at one instance for as long as it is the one that has traffic."""
        witnesses = Witnesses()
        async with open_plain_client(address, ADMIN_PORT, PATIENCE) as client:
            while self._proxy.ready.value == instance:
                readings: dict[str, Reading] = {}
                try:
                    answer = await client.get("/metrics")
                except httpx.HTTPError:
                    pass  # whether the proxy answers is its own watcher's affair
                else:
                    is_shown = answer.status_code == 200
                    readings = read_controllers(answer.text) if is_shown else await self._look_at_connections()
                witnesses = witnesses.see(readings, trio.current_time())
                found = witnesses.is_there(trio.current_time())
                if found is not None:
                    self.lookups.set(found)
                with trio.move_on_after(LOOK_EVERY if witnesses.is_settled else TICK):
                    await self._proxy.ready.wait_for(lambda newest: newest != instance)

    async def _look_at_connections(self) -> dict[str, Reading]:
        settings = self._membership.settings.value
        if settings is None:
            return {}
        tables = await trio.to_thread.run_sync(read_tcp_tables)
        sockets = [socket for table in tables for socket in read_sockets(table)]
        plane = settings.control_plane
        return read_connections(sockets, self._proxy.uid, plane.destination, plane.policy)


@asynccontextmanager
async def open_failing(membership: Membership, identity: Identity, proxy: Proxy, now: Now) -> AsyncIterator[Failing]:
    """Judge the data path while open."""
    failing = Failing(membership, identity, proxy, now)
    failing.judge_now()
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "judgement", failing.keep_judging)
        nursery.start_soon(supervise, "control plane", failing.keep_looking)
        yield failing
        nursery.cancel_scope.cancel()
