"""A watch as its client sees it, in virtual time: backlog, changes, bookmarks, its end, and falling behind."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from exclave_sandbox.apiserver.api import Watch
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from exclave_sandbox.apiserver.lists import parse_selector
from exclave_sandbox.apiserver.store import Scope, Store
from exclave_sandbox.apiserver.watch import MOST_BEHIND, stream_watch
from support.store import config_map, make_store

KIND = kinds.CONFIG_MAPS
Event = tuple[float, str, str, str]


class Client:
    """Takes in a watch's pieces and notes when each event came: (time, type, name, resourceVersion)."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.start = trio.current_time()

    async def send(self, piece: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for line in piece.splitlines():
            event = json.loads(line)
            meta = event["object"].get("metadata", {})
            shown = meta.get("name", event["object"].get("message", ""))
            moment = round(trio.current_time() - self.start, 3)
            self.events.append((moment, event["type"], shown, meta.get("resourceVersion", "")))


def planned(store: Store, labels: str = "", **changes: Any) -> Watch:
    wanted = {"revision": store.revision, "initial": (), "seconds": 10.0, "bookmarks": False, **changes}
    return Watch(KIND, wanted.pop("scope", Scope(KIND.key, "g")), parse_selector(labels, ""), **wanted)


def write(store: Store, name: str, **metadata: Any) -> dict[str, Any]:
    if store.find(KIND, "g", name) is None:
        return store.create(KIND, "g", config_map(name, **metadata))
    return store.patch(KIND, "g", name, lambda old: merge_patch(old, {"metadata": metadata}))


async def watched(store: Store, watch: Watch, act: Callable[[], Any] | None = None) -> list[Event]:
    """Run a watch to its end; `act` is called one second after its beginning."""
    client = Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream_watch, store.history, watch, client.send)
        if act is not None:
            await trio.sleep(1)
            act()
    return client.events


async def test_initial_objects_backlog_and_changes_come_in_order_and_then_it_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = make_store()
    initial = (write(store, "a"),)
    watch = planned(store, initial=initial)
    write(store, "b")

    def act() -> None:
        write(store, "a", labels={"x": "y"})
        store.delete(KIND, "g", "b")

    assert await watched(store, watch, act) == [
        (0, "ADDED", "a", "2"),
        (0, "ADDED", "b", "3"),
        (1, "MODIFIED", "a", "4"),
        (1, "DELETED", "b", "5"),
    ]
    assert trio.current_time() == pytest.approx(10)


async def test_events_of_other_names_and_namespaces_are_not_sent(autojump_clock: trio.testing.MockClock) -> None:
    store = make_store()
    store.create(kinds.NAMESPACES, "", {"metadata": {"name": "h"}})

    def act() -> None:
        write(store, "a")
        write(store, "b")
        store.create(KIND, "h", config_map("a"))

    watch = planned(store, scope=Scope(KIND.key, "g", "a"))
    assert [event[2] for event in await watched(store, watch, act)] == ["a"]


async def test_an_expired_revision_is_an_error_in_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    store = make_store(window=1)
    write(store, "a")
    write(store, "b")
    assert await watched(store, planned(store, revision=1)) == [(0, "ERROR", "too old resource version: 1 (2)", "")]


async def test_a_revision_from_the_future_is_an_error_in_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    store = make_store()
    expected = "Too large resource version: 9, current: 1"
    assert await watched(store, planned(store, revision=9)) == [(0, "ERROR", expected, "")]


async def test_no_bookmark_is_sent_without_a_newer_version(autojump_clock: trio.testing.MockClock) -> None:
    store = make_store()
    assert await watched(store, planned(store, seconds=130.0, bookmarks=True)) == []


async def test_bookmarks_come_each_minute_and_just_before_the_end(autojump_clock: trio.testing.MockClock) -> None:
    store = make_store()

    def act() -> None:
        store.create(kinds.NAMESPACES, "", {"metadata": {"name": "h"}})

    events = await watched(store, planned(store, seconds=130.0, bookmarks=True), act)
    assert events == [(60, "BOOKMARK", "", "2"), (120, "BOOKMARK", "", "2"), (128, "BOOKMARK", "", "2")]
    assert not await watched(store, planned(store, seconds=130.0))


async def test_an_object_that_comes_to_match_is_added_and_one_that_ceases_is_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = make_store()

    def act() -> None:
        write(store, "a")
        write(store, "a", labels={"l": "x"})
        write(store, "a", annotations={"seen": "yes"})
        write(store, "a", labels={"l": None})
        write(store, "a", annotations=None)

    events = await watched(store, planned(store, "l=x"), act)
    assert [event[1:] for event in events] == [("ADDED", "a", "3"), ("MODIFIED", "a", "4"), ("DELETED", "a", "5")]


async def test_a_client_too_far_behind_is_disconnected(autojump_clock: trio.testing.MockClock) -> None:
    store, client, go_on = make_store(window=5 * MOST_BEHIND), Client(), trio.Event()

    async def send_slowly(piece: bytes) -> None:
        await go_on.wait()
        await client.send(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream_watch, store.history, planned(store, seconds=1e6), send_slowly)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(MOST_BEHIND + 10):
            write(store, "a", labels={"n": str(number)})
            if number == 0:
                await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert len(client.events) == MOST_BEHIND + 1
    assert trio.current_time() - client.start < 1e5, "it ended because it fell behind, not because its time was over"


async def test_a_client_that_disconnects_follows_no_more(autojump_clock: trio.testing.MockClock) -> None:
    store = make_store()
    watch = planned(store)
    with trio.move_on_after(1):
        await stream_watch(store.history, watch, Client().send)
    assert watch.scope not in store.history._followers
