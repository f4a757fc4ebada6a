"""A queue of keys that workers reconcile: each key once at a time, failures again after a growing pause.

Keys are in lanes, which have equal shares: many keys of one lane delay a key of another lane by one turn.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio
import trio.lowlevel

from exclave.errors import describe
from exclave.kit.tasks.backoff import Backoff

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

FAILURES = Backoff(first=0.2, most=60.0)


class Lanes(Generic[K]):
    """Keys that wait. `lane_of` returns the lane of a key and the lane in that, such as namespace and group."""

    def __init__(self, lane_of: Callable[[K], tuple[Hashable, Hashable]]) -> None:
        self._lane_of = lane_of
        self._lanes: dict[Hashable, dict[Hashable, deque[K]]] = {}  # no lane is empty; the next one is first

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def append(self, key: K) -> None:
        """Add a key behind those of its lane."""
        outer, inner = self._lane_of(key)
        self._lanes.setdefault(outer, {}).setdefault(inner, deque()).append(key)

    def popleft(self) -> K:
        """Remove the first key of the next lane, which is the last one then."""
        outer, lanes = next(iter(self._lanes.items()))
        inner, keys = next(iter(lanes.items()))
        key = keys.popleft()
        del lanes[inner]
        if keys:
            lanes[inner] = keys
        del self._lanes[outer]
        if lanes:
            self._lanes[outer] = lanes
        return key


class WorkQueue(Generic[K]):
    """Reconciles keys. `reconcile` returns seconds until the key's next turn, None without one.

    `draw`: in [0, 1). `lane_of`: see Lanes; without it all keys are in one lane.
    """

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[float | None]],
        draw: Callable[[], float],
        lane_of: Callable[[K], tuple[Hashable, Hashable]] = lambda _: (None, None),
    ) -> None:
        self._reconcile = reconcile
        self._draw = draw
        self._ready = Lanes(lane_of)
        self._waiting: set[K] = set()  # in `_ready`
        self._busy: set[K] = set()
        self._again: set[K] = set()  # added while busy
        self._failures: dict[K, tuple[int, float]] = {}  # how many, and trio time from which the next one is logged
        self._due: dict[K, float] = {}  # trio time of the next turn
        self._nearest = float("inf")  # of `_due`, or earlier
        self._wake = trio.Event()
        self._nearer = trio.Event()  # `_nearest` is earlier than `_add_due` knows

    def add_nowait(self, key: K) -> None:
        """Reconcile a key soon, and once more if it is being reconciled."""
        self._due.pop(key, None)
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            wake, self._wake = self._wake, trio.Event()
            wake.set()

    def add_later_nowait(self, key: K, pause: float) -> None:
        """Reconcile a key after `pause` seconds, unless it is due earlier anyway."""
        due = trio.current_time() + pause
        if key not in self._waiting and due < self._due.get(key, float("inf")):
            self._set_due(key, due)

    async def run(self, workers: int) -> None:
        """Reconcile keys until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(self._work)
            nursery.start_soon(self._add_due)

    async def _work(self) -> None:
        while True:
            while not self._ready:
                await self._wake.wait()
            key = self._ready.popleft()
            self._waiting.discard(key)
            self._busy.add(key)
            pause = await self._try(key)
            self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add_nowait(key)
            elif pause is not None:
                self._set_due(key, trio.current_time() + pause)
            # Without this, 10,000 keys without any I/O would delay the renewal of the leader's Lease past its deadline.
            await trio.lowlevel.checkpoint()

    async def _try(self, key: K) -> float | None:
        try:
            pause = await self._reconcile(key)
        except Exception as problem:  # a fault of one object must not stop the others
            now = trio.current_time()
            attempt, logged_from = self._failures.get(key, (0, now))
            pause = FAILURES.pause(attempt, self._draw())
            if now >= logged_from:
                # An object may change and fail many times a second, so log only after the pause.
                log.warning("%s: tried again: %s", key, describe(problem))
                logged_from = now + pause
            self._failures[key] = attempt + 1, logged_from
            return pause
        self._failures.pop(key, None)
        return pause

    async def _add_due(self) -> None:
        while True:
            # Not with each key that is added: this reads all keys that are due later.
            self._nearer = trio.Event()
            self._nearest = min(self._due.values(), default=float("inf"))
            with trio.move_on_at(self._nearest):
                await self._nearer.wait()
            now = trio.current_time()
            for key in [key for key, due in self._due.items() if due <= now]:
                self.add_nowait(key)
            await trio.lowlevel.checkpoint()

    def _set_due(self, key: K, due: float) -> None:
        self._due[key] = due
        if due < self._nearest:
            self._nearest = due
            self._nearer.set()
