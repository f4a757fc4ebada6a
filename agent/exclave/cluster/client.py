"""A client of the Kubernetes API: send a request once, send it until it is answered, watch objects.

Only `send` reports every failure. `send_patiently` and `watch` raise only refusals that a retry cannot change.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from exclave.api.requests import Object, Request, Resource, is_transient
from exclave.cluster.answers import AnswerTooLarge
from exclave.cluster.endpoint import Access
from exclave.cluster.http import Exchange, Fence, Wait, open_exchange
from exclave.cluster.watch import (
    Abort,
    Answered,
    Arrived,
    Deliver,
    Ended,
    Fetch,
    Lost,
    Open,
    Opened,
    Oversized,
    Pause,
    Read,
    Report,
    Silent,
    WatchEvent,
    WatchMachine,
)
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

RETRIES = Backoff(first=0.5, most=30.0)

Draw = Callable[[], float]  # returns a number in [0, 1)


class Cluster:
    """One cluster under one identity. Made by `open_cluster`; every call may be cancelled.

    `reachable`: the last request was answered, with any status. `waiting`: a wait over 15 s, with its reason.
    `looping`: a watch that is refused or ended again and again although the server answers, with the reason.
    `counts`: requests by verb and HTTP status, "" without an answer.
    """

    def __init__(self, exchange: Exchange, draw: Draw) -> None:
        self.reachable: Latest[bool] = exchange.reachable
        self.waiting: Latest[str | None] = exchange.waits.latest
        self.counts: Counter[tuple[str, str]] = exchange.counts
        self.looping: Latest[str | None] = Latest(None)
        self._loops: dict[str, str] = {}  # of the watches that loop: why, by what they watch
        self._exchange = exchange
        self._draw = draw

    @property
    def server(self) -> str:
        """The URL of the API server that answered last, or that is tried first."""
        return self._exchange.server

    @property
    def skew(self) -> float | None:
        """Seconds by which the server's clock (HTTP Date) was ahead of ours at the last answer."""
        return self._exchange.skew

    def trust(self, ca: str) -> None:
        """Trust these CAs (PEM) from the next connection on. Raises ClusterError if they cannot be read."""
        self._exchange.trust(ca)

    def drop_connections(self) -> None:
        """Drop every connection: this machine has lost the address that they use."""
        self._exchange.drop_connections()

    async def send(self, request: Request, fence: Fence | None = None) -> Object:
        """Try each server once, until one answers. Raises ClusterError if none did, ApiRefusal, what `fence` raises.

        A request whose answer was lost may have been executed, by more than one server.
        """
        with self._exchange.waits.over(f"to {request.verb} {request.what}"):
            return await self._exchange.answer(request, fence)

    async def send_patiently(self, request: Request) -> Object:
        """Send until it is answered. Raises ApiRefusal if a retry cannot change the refusal."""
        attempts = Attempts()
        with self._exchange.waits.over(f"to {request.verb} {request.what}") as wait:
            while True:
                try:
                    return await self._exchange.answer(request)
                except ClusterError as problem:
                    if not is_transient(problem):
                        raise
                    least = problem.retry_after if isinstance(problem, ApiRefusal) else None
                    self._exchange.waits.explain(wait, problem.message)
                await trio.sleep(max(attempts.failed(RETRIES, self._draw()), least or 0.0))

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str | None = None,
        labels: str = "",
        trim: Callable[[Object], Object] | None = None,
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Follow all objects in a namespace (None: in all), or the one called `name`, while the block runs.

        `labels` (a label selector) leaves out other objects; one that loses its labels is Removed. `trim` returns what
        is needed of an object: each may have 1.5 MB, and all of a collection are in memory.

        No event is lost. The first is Listed, or for one object Upserted or Removed. Raises ApiRefusal.
        """
        deliver, events = trio.open_memory_channel[WatchEvent](0)
        what = f"{resource.plural} {name or ''}".rstrip()
        report_loop = partial(self._report_loop, f"{what} in {namespace}" if namespace else what)
        machine = WatchMachine(resource, namespace, name, labels=labels, trim=trim, read=self._exchange.reader.read)
        follower = _Follower(self._exchange, machine, deliver, self._draw, report_loop)
        async with open_bare_nursery() as nursery:
            nursery.start_soon(follower.run, f"to watch {what}")
            yield events
            nursery.cancel_scope.cancel()

    def _report_loop(self, what: str, why: str | None) -> None:
        if why is None:
            if self._loops.pop(what, None) is not None:
                log.info("the watch of %s works again", what)
        else:
            if what not in self._loops:
                log.warning("the watch of %s does not come to work, and is tried again: %s", what, why)
            self._loops[what] = why
        self.looping.set(next((f"{name}: {reason}" for name, reason in self._loops.items()), None))


class _Follower:
    def __init__(
        self,
        exchange: Exchange,
        machine: WatchMachine,
        deliver: "trio.MemorySendChannel[WatchEvent]",
        draw: Draw,
        report_loop: Callable[[str | None], None],
    ) -> None:
        self._exchange = exchange
        self._machine = machine
        self._deliver = deliver
        self._draw = draw
        self._report_loop = report_loop
        self._wait: Wait | None = None

    async def run(self, what: str) -> None:
        try:
            while True:
                await self._do_step(what)
        finally:
            self._stop_waiting()
            self._report_loop(None)

    async def _do_step(self, what: str) -> None:
        action = self._machine.next_action(trio.current_time(), self._draw())
        if isinstance(action, Deliver):
            await self._deliver.send(action.event)
            return
        if self._wait is None:
            self._wait = self._exchange.waits.begin(what)
        if isinstance(action, Fetch):
            self._report(await self._fetch(action.request))
        elif isinstance(action, Open):
            await self._stream(action.request)
        elif isinstance(action, Pause):
            self._exchange.waits.explain(self._wait, action.why)
            await trio.sleep_until(action.until)
        else:
            assert isinstance(action, Abort)
            raise action.refusal

    async def _fetch(self, request: Request) -> Report:
        try:
            return Answered(await self._exchange.answer(request))
        except ApiRefusal as refusal:
            return refusal
        except AnswerTooLarge as problem:
            return Oversized(problem.message)
        except ClusterError as problem:
            return Lost(problem.message)

    async def _stream(self, request: Request) -> None:
        try:
            async with self._exchange.open_stream(request) as received:
                self._report(Opened())
                while self._machine.is_reading:
                    action = self._machine.next_action(trio.current_time(), self._draw())
                    if isinstance(action, Deliver):
                        await self._deliver.send(action.event)
                    else:
                        assert isinstance(action, Read)
                        self._report(await _read(received, action.until))
        except ApiRefusal as refusal:
            self._report(refusal)
        except ClusterError as problem:
            self._report(Lost(problem.message))

    def _report(self, report: Report) -> None:
        self._machine.receive(report, trio.current_time())
        loop = self._machine.loop
        self._report_loop(loop)
        # An answer ends the wait, but not in a loop, in which each answer is of no use.
        if loop is None and isinstance(report, Answered | Opened | Arrived | Silent):
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._wait is not None:
            self._exchange.waits.end(self._wait)
            self._wait = None


async def _read(received: AsyncIterator[bytes], until: float) -> Report:
    with trio.move_on_at(until):
        try:
            return Arrived(await received.__anext__())
        except StopAsyncIteration:
            return Ended()
    return Silent()


@asynccontextmanager
async def open_cluster(
    access: Access, token: Callable[[], str], now: Now = time.time, draw: Draw = random.random
) -> AsyncIterator[Cluster]:
    """A client of a cluster; `token` returns each request's bearer token. Raises ClusterError for an unusable CA."""
    async with open_exchange(access, token, now) as exchange:
        yield Cluster(exchange, draw)
