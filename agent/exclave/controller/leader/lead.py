"""Leader election: a replica leads only while it certainly holds the Lease, and writes nothing after that."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from exclave.api.requests import LEASES, Object, Request, Resource, create, get, replace
from exclave.cluster.client import Cluster
from exclave.cluster.watch import WatchEvent
from exclave.controller.leader.election import (
    RETRY,
    LeaseVersion,
    acquired_lease,
    may_acquire,
    observe,
    released_lease,
    time_left,
)
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

READS = frozenset({"get", "list", "watch"})


def boot_time() -> float:
    """Seconds since this machine booted, including the time in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sender(Protocol):
    """A cluster, or a leader's view of it."""

    async def send(self, request: Request) -> Object:
        """Send a request. Raises ClusterError."""
        ...


class FencedCluster:
    """The cluster for a leader. Each write raises ClusterError if the replica leads no longer, also after a sleep."""

    def __init__(self, cluster: Cluster, time_left: Callable[[], float]) -> None:
        self._cluster = cluster
        self._time_left = time_left

    @property
    def reachable(self) -> Latest[bool]:
        """The cluster's `reachable`."""
        return self._cluster.reachable

    async def send(self, request: Request) -> Object:
        """Send a request as the cluster does; a write only while this replica leads."""
        if request.verb in READS:
            return await self._cluster.send(request)

        # Called again right before the bytes are sent, since the request may have waited for a connection.
        def seconds_left() -> float:
            if (left := self._time_left()) > 0:
                return left
            raise ClusterError(
                Fault.NOT_PERMITTED,
                f"this controller leads no longer, so it does not {request.verb} {request.what}",
                "another replica leads; there is nothing to do",
            )

        return await self._cluster.send(request, seconds_left)

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str | None = None,
        labels: str = "",
        trim: Callable[[Object], Object] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """The cluster's `watch`."""
        return self._cluster.watch(resource, namespace, name, labels, trim)


class Candidate:
    """One replica in the election. `leads`: whether it leads."""

    def __init__(
        self, cluster: Cluster, namespace: str, name: str, me: str, now: Now, clock: Callable[[], float]
    ) -> None:
        self.leads: Latest[bool] = Latest(False)
        self._cluster = cluster
        self._place = (namespace, name)
        self._me = me
        self._now = now
        self._clock = clock
        self._last: LeaseVersion | None = None
        self._renewed_at: float | None = None
        self._lease: Object | None = None

    @property
    def fenced(self) -> FencedCluster:
        """The cluster, usable for writes while this replica leads."""
        return FencedCluster(self._cluster, self.time_left)

    def time_left(self) -> float:
        """Seconds for which this replica certainly holds the Lease."""
        return time_left(self._renewed_at, self._clock())

    def may_write_now(self) -> bool:
        """True if this replica certainly holds the Lease."""
        return self.time_left() > 0

    async def campaign(self) -> None:
        """Acquire the Lease and renew it, until cancelled."""
        while True:
            try:
                await self._try()
            except ClusterError as problem:
                log.warning("election: %s", problem)
            self.leads.set(self.may_write_now())
            await trio.sleep(RETRY)

    async def watch_deadline(self) -> None:
        """Stop leading at the deadline, also while a renewal hangs."""
        while True:
            await self.leads.wait_for(bool)
            while self.may_write_now():  # noqa: ASYNC110  no event tells that time has passed
                await trio.sleep(0.5)
            self.leads.set(False)

    async def _try(self) -> None:
        lease = await self._read()
        began = self._clock()
        if lease is not None:
            self._last = observe(self._last, lease, began)
            if not may_acquire(lease, self._last, self._me, began):
                self._renewed_at = None
                return
        body = acquired_lease(lease, *self._place, self._me, self._now())
        try:
            self._lease = await self._cluster.send(
                create(LEASES, self._place[0], body) if lease is None else replace(LEASES, *self._place, body)
            )
        except ApiRefusal as refusal:
            if refusal.status != 409:
                raise
            self._renewed_at = None  # another replica was faster
            return
        self._renewed_at = began

    async def _read(self) -> Object | None:
        try:
            return await self._cluster.send(get(LEASES, *self._place))
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return None
            raise

    async def release(self) -> None:
        """Release the Lease, so that another replica leads at once."""
        if not self.may_write_now() or self._lease is None:
            return
        try:
            try:
                await self._write_released(self._lease)
            except ApiRefusal as refusal:
                # A cancelled renewal may have been stored, so our version of the Lease may not be the newest.
                newest = await self._read() if refusal.status == 409 else None
                if newest is None or (newest.get("spec") or {}).get("holderIdentity") != self._me:
                    raise
                await self._write_released(newest)
        except ClusterError as problem:
            log.info("the Lease was not released: %s", problem)
        finally:
            self._renewed_at = None

    async def _write_released(self, lease: Object) -> None:
        await self._cluster.send(replace(LEASES, *self._place, released_lease(lease, *self._place, self._now())))


@asynccontextmanager
async def open_candidate(
    cluster: Cluster, namespace: str, name: str, me: str, now: Now, clock: Callable[[], float] = boot_time
) -> AsyncIterator[Candidate]:
    """Take part in the election while open."""
    candidate = Candidate(cluster, namespace, name, me, now, clock)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "election", candidate.campaign)
        nursery.start_soon(supervise, "clock of the election", candidate.watch_deadline)
        try:
            yield candidate
        finally:
            nursery.cancel_scope.cancel()
            with shielded(RETRY):
                await candidate.release()
