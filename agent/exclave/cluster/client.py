"""The cluster, as the rest of exclave sees it: send a request, send it until it is answered, follow objects.

Rules: `send` reports whatever went wrong; `send_patiently` and `watch` deal with all that passes by itself (nobody
reached, overload, a server that restarts) and raise only what will not. Both wait for ever, and never silently:
`waiting` says for what after 15 s. Cancelling is safe at any moment. A watch that meets a refusal which asking again
cannot mend ends by raising it out of its `async with` block.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from exclave.api.requests import Object, Request, Resource, is_transient
from exclave.cluster.endpoint import Access
from exclave.cluster.http import Exchange, Fence, open_exchange
from exclave.cluster.waiting import Wait
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
    Pause,
    Read,
    Refused,
    Report,
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

Draw = Callable[[], float]
"""Gives a number in [0, 1)."""


class Cluster:
    """One cluster under one identity. Made by `open_cluster`."""

    def __init__(self, exchange: Exchange, draw: Draw) -> None:
        self._exchange = exchange
        self._draw = draw

    @property
    def server(self) -> str:
        """The URL of the API server that answered last, or is asked first."""
        return self._exchange.server

    @property
    def reachable(self) -> Latest[bool]:
        """Whether the last request was answered, with whatever status; False before the first."""
        return self._exchange.reachable

    @property
    def waiting(self) -> Latest[str | None]:
        """What has been waited for longer than 15 s, and why; None if nothing."""
        return self._exchange.waits.latest

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Requests by verb and HTTP status; status "" where nobody answered."""
        return self._exchange.counts

    @property
    def skew(self) -> float | None:
        """Seconds by which the server's clock (HTTP Date) was ahead of ours at the last answer."""
        return self._exchange.skew

    def start_afresh(self) -> None:
        """Drop every connection: this machine has lost the address that they are from."""
        self._exchange.start_afresh()

    async def send(self, request: Request, fence: Fence | None = None) -> Object:
        """One call: each server is tried once, until one answers. Raises ClusterError if none did, ApiRefusal.

        A request whose answer was lost may have been carried out, by more than one server in turn. What has a `fence`
        is sent only while that holds, and what it raises is raised.
        """
        with self._exchange.waits.over(f"to {request.verb} {request.what}"):
            return await self._exchange.answer(request, fence)

    async def send_patiently(self, request: Request) -> Object:
        """Send until it is answered, however long that takes. Raises ApiRefusal if asking again cannot help."""
        attempts = Attempts()
        with self._exchange.waits.over(f"to {request.verb} {request.what}") as wait:
            while True:
                try:
                    return await self._exchange.answer(request)
                except ClusterError as problem:
                    if not is_transient(problem):
                        raise
                    asked = problem.retry_after if isinstance(problem, ApiRefusal) else None
                    self._exchange.waits.explain(wait, problem.message)
                await trio.sleep(max(attempts.failed(RETRIES, self._draw()), asked or 0.0))

    @asynccontextmanager
    async def watch(
        self, resource: Resource, namespace: str | None, name: str | None = None
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Follow all objects in a namespace (None: in all), or the one called `name`, for as long as the block runs.

        Events wait for the reader, none is left out; the first is Listed, or for one object Upserted or Removed.
        """
        deliver, events = trio.open_memory_channel[WatchEvent](0)
        follower = _Follower(self._exchange, WatchMachine(resource, namespace, name), deliver, self._draw)
        async with open_bare_nursery() as nursery:
            nursery.start_soon(follower.run, f"to watch {resource.plural} {name or ''}".rstrip())
            yield events
            nursery.cancel_scope.cancel()


class _Follower:
    """Carries out what a watch machine wants."""

    def __init__(
        self, exchange: Exchange, machine: WatchMachine, deliver: "trio.MemorySendChannel[WatchEvent]", draw: Draw
    ) -> None:
        self._exchange = exchange
        self._machine = machine
        self._deliver = deliver
        self._draw = draw
        self._wait: Wait | None = None

    async def run(self, what: str) -> None:
        """Follow until cancelled. Raises ApiRefusal."""
        try:
            while True:
                await self._do_step(what)
        finally:
            self._stop_waiting()

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
            return Refused(refusal)
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
            self._report(Refused(refusal))
        except ClusterError as problem:
            self._report(Lost(problem.message))

    def _report(self, report: Report) -> None:
        if isinstance(report, Answered | Opened):
            self._stop_waiting()
        self._machine.receive(report, trio.current_time())

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
    return Lost("the API server fell silent")


@asynccontextmanager
async def open_cluster(
    access: Access, token: Callable[[], str], now: Now = time.time, draw: Draw = random.random
) -> AsyncIterator[Cluster]:
    """Talk to a cluster; `token` is asked for the bearer token of each request.

    Raises ClusterError if the CA cannot be read. Whether a server answers is seen with the first request.
    """
    async with open_exchange(access, token, now) as exchange:
        yield Cluster(exchange, draw)
