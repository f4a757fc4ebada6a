"""Watches the ConfigMaps with groups' settings, which others may change or delete.

Each is watched by its name: a watch of all would need the right to list every ConfigMap of a namespace.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, Object
from exclave.cluster.client import Cluster
from exclave.controller.cache import Cache, key_of
from exclave.controller.leader.lead import FencedCluster
from exclave.controller.policy.snapshot import Key
from exclave.errors import ApiRefusal
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise

log = logging.getLogger(__name__)

REFUSED = Backoff(first=1.0, most=60.0)  # an admin may grant the right that is missing
BETWEEN_REPAIRS = 1.0  # seconds: who changes the settings again and again costs one write a second


@dataclass
class _Followed:
    """The ConfigMap of one group. `repaired_at`: trio time of the last repair."""

    key: Key
    cache: Cache = field(default_factory=Cache)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    attempts: Attempts = field(default_factory=Attempts)
    refusal: str = ""
    repaired_at: float = -BETWEEN_REPAIRS


def holds(found: Object | None, text: str) -> bool:
    """True if a ConfigMap holds these settings and nothing else."""
    return found is not None and found.get("data") == {SETTINGS_KEY: text} and not found.get("binaryData")


def settings_patch(found: Object | None, text: str) -> Object:
    """The merge patch after which a ConfigMap holds these settings and nothing else."""
    added = (found or {}).get("data") or {}
    binary = {"binaryData": None} if (found or {}).get("binaryData") else {}
    return {"data": {**dict.fromkeys(added), SETTINGS_KEY: text}, **binary}


class SettingsWatch:
    """Watches the settings of each followed group. `changed` is called with a group after each change."""

    def __init__(
        self,
        cluster: Cluster | FencedCluster,
        changed: Callable[[Key], None],
        draw: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._changed = changed
        self._draw = draw
        self._followed: dict[Key, _Followed] = {}
        self._waiting: list[_Followed] = []  # those whose watch is to be started
        self._added = trio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with open_bare_nursery() as nursery:
            while True:
                waiting, self._waiting = self._waiting, []
                for one in waiting:
                    title = f"watch of settings {'/'.join(one.key)}"
                    nursery.start_soon(partial(supervise, title, partial(self._follow, one), draw=self._draw))
                await self._added.wait()
                self._added = trio.Event()

    def follow_nowait(self, key: Key, stored: Object) -> None:
        """Store the ConfigMap that a write of a group's settings returned, and watch it from now on."""
        one = self._followed.get(key)
        if one is None:
            one = self._followed[key] = _Followed(key)
            self._waiting.append(one)
            self._added.set()
        one.cache.merge_response(key_of(stored), stored)

    def forget_nowait(self, key: Key) -> None:
        """End the watch of a group that is gone."""
        one = self._followed.pop(key, None)
        if one is not None:
            one.scope.cancel()

    def found(self, key: Key) -> Object | None:
        """The ConfigMap of a followed group as it is now, as far as known; None if there is none."""
        one = self._followed.get(key)
        return one.cache.single() if one is not None else None

    def is_intact(self, key: Key, text: str) -> bool:
        """False if somebody has changed or deleted these settings of a group, which the controller wrote."""
        one = self._followed.get(key)
        return one is None or not one.cache.synced or holds(one.cache.single(), text)

    def time_to_repair(self, key: Key) -> float:
        """Seconds until the settings of a group may be repaired again; 0 starts the time anew."""
        one, now = self._followed[key], trio.current_time()
        left = one.repaired_at + BETWEEN_REPAIRS - now
        if left > 0:
            return left
        one.repaired_at = now
        return 0.0

    async def _follow(self, one: _Followed) -> None:
        namespace, name = one.key[0], settings_name(one.key[1])
        with one.scope:
            while True:
                try:
                    async with self._cluster.watch(CONFIG_MAPS, namespace, name) as events:
                        async for event in events:
                            one.cache.apply(event)
                            one.refusal = ""
                            one.attempts.succeeded()
                            self._changed(one.key)
                except ApiRefusal as refusal:
                    one.cache.synced = False  # what is cached grows old
                    if refusal.message != one.refusal:
                        log.warning(
                            "ConfigMap %s in %s is not watched, so changes by others are not repaired: %s; "
                            "to do: kubectl exclave upgrade", name, namespace, refusal.message,
                        )  # fmt: skip
                    one.refusal = refusal.message
                await trio.sleep(one.attempts.failed(REFUSED, self._draw()))
