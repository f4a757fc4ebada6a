"""The ConfigMaps with groups' settings, which others change or delete."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.requests import CONFIG_MAPS, Object, Resource
from exclave.cluster.watch import Removed, Upserted, WatchEvent
from exclave.controller.mesh.settings_watch import BETWEEN_REPAIRS, SettingsWatch, holds, settings_patch
from exclave.errors import ApiRefusal
from exclave_sandbox.apiserver.kinds.kinds import merge_patch

WEB, TEXT = ("shop", "web"), '{"version":1}'
NAME = ("shop", "exclave-mesh.web")


def config_map(version: int = 1, **fields: Any) -> Object:
    metadata = {"namespace": NAME[0], "name": NAME[1], "resourceVersion": str(version)}
    return {"metadata": metadata, "data": {"settings.json": TEXT}, **fields}


CHANGED = {
    "another text": {"data": {"settings.json": "{}"}},
    "no text": {"data": {"settings.json": ""}},
    "no entry": {"data": {}},
    "no data": {"data": None},
    "one more entry": {"data": {"settings.json": TEXT, "more": "x" * 1000}},
    "binary data": {"binaryData": {"more": "eA=="}},
    "the entry as binary data": {"data": None, "binaryData": {"settings.json": "eA=="}},
}


@pytest.mark.parametrize("fields", CHANGED.values(), ids=CHANGED)
def test_a_change_is_found_and_one_patch_undoes_it(fields: Object) -> None:
    found = config_map(**fields)
    assert not holds(found, TEXT)
    assert holds(merge_patch(found, settings_patch(found, TEXT)), TEXT)


def test_settings_that_are_as_written_are_intact() -> None:
    assert holds(config_map(), TEXT)
    assert holds(config_map(immutable=True), TEXT)
    assert not holds(None, TEXT)
    assert settings_patch(None, TEXT) == {"data": {"settings.json": TEXT}}


class FakeCluster:
    """A cluster whose watch delivers what `events` sends, or a refusal. `opened`: names of the watches, in order."""

    def __init__(self) -> None:
        self.opened: list[tuple[str | None, str | None]] = []
        self.open = 0
        self.events, self._received = trio.open_memory_channel[WatchEvent | ApiRefusal](10)

    @asynccontextmanager
    async def watch(
        self, resource: Resource, namespace: str | None, name: str | None = None, labels: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        assert (resource, labels) == (CONFIG_MAPS, "")
        self.opened.append((namespace, name))
        self.open += 1
        try:
            yield self._stream()
        finally:
            self.open -= 1

    async def _stream(self) -> AsyncIterator[WatchEvent]:
        async for one in self._received:
            if isinstance(one, ApiRefusal):
                raise one
            yield one


class Watching:
    """A watch of group `web`, whose settings were written. `changes`: how often it was reported."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.changes = 0
        self.watch = SettingsWatch(self.cluster, self._changed, lambda: 0.0)  # type: ignore[arg-type]

    def _changed(self, key: tuple[str, str]) -> None:
        assert key == WEB
        self.changes += 1

    async def deliver(self, event: WatchEvent | ApiRefusal) -> None:
        await self.cluster.events.send(event)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def watching() -> AsyncIterator[Watching]:
    found = Watching()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.watch.run)
        found.watch.follow_nowait(WEB, config_map(5))
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


async def test_a_change_and_a_deletion_are_reported_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with watching() as found:
        assert found.cluster.opened == [NAME]
        await found.deliver(Upserted(config_map(5)))
        assert found.watch.is_intact(WEB, TEXT)
        await found.deliver(Upserted(config_map(6, data={})))
        assert not found.watch.is_intact(WEB, TEXT)
        found.watch.follow_nowait(WEB, config_map(7))
        assert found.watch.is_intact(WEB, TEXT)
        await found.deliver(Removed(config_map(8)))
        assert not found.watch.is_intact(WEB, TEXT)
        assert found.watch.found(WEB) is None
        assert (found.changes, found.cluster.opened) == (3, [NAME])


async def test_our_own_write_counts_before_the_watch_has_reported_it(autojump_clock: trio.testing.MockClock) -> None:
    async with watching() as found:
        await found.deliver(Upserted(config_map(5)))
        found.watch.follow_nowait(WEB, config_map(9, data={"settings.json": "newer"}))
        assert found.watch.is_intact(WEB, "newer")
        assert not found.watch.is_intact(WEB, TEXT)


async def test_what_no_watch_has_reported_counts_as_intact(autojump_clock: trio.testing.MockClock) -> None:
    async with watching() as found:
        assert found.watch.is_intact(WEB, "anything")
        assert found.watch.is_intact(("shop", "other"), "anything")


async def test_a_watch_that_is_refused_is_tried_again_and_concludes_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching() as found:
        await found.deliver(Upserted(config_map(6, data={})))
        await found.deliver(ApiRefusal(403, "Forbidden", "may not watch", ""))
        assert found.watch.is_intact(WEB, TEXT), "what was met before may be old"
        assert "to do: kubectl exclave upgrade" in caplog.text
        await trio.sleep(1.5)
        assert found.cluster.opened == [NAME, NAME]
        await found.deliver(Upserted(config_map(7, data={})))
        assert not found.watch.is_intact(WEB, TEXT)


async def test_the_watch_of_a_group_that_is_gone_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with watching() as found:
        found.watch.forget_nowait(WEB)
        found.watch.forget_nowait(WEB)
        await trio.testing.wait_all_tasks_blocked()
        assert found.cluster.open == 0
        found.watch.follow_nowait(WEB, config_map(9))
        await trio.testing.wait_all_tasks_blocked()
        assert (found.cluster.open, found.cluster.opened) == (1, [NAME, NAME])


async def test_the_first_repair_is_at_once_and_further_ones_once_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with watching() as found:
        assert found.watch.time_to_repair(WEB) == 0.0
        assert found.watch.time_to_repair(WEB) == BETWEEN_REPAIRS
        await trio.sleep(BETWEEN_REPAIRS)
        assert found.watch.time_to_repair(WEB) == 0.0
