"""A queue of keys, in virtual time."""

import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from exclave.controller.queue import FAILURES, Lanes, WorkQueue
from exclave.errors import ClusterError, Fault

Reconcile = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(reconcile: Reconcile, workers: int = 2) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(reconcile, lambda: 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run, workers)
        yield queue
        nursery.cancel_scope.cancel()


async def test_a_key_is_reconciled_once_however_often_it_was_added(autojump_clock: trio.testing.MockClock) -> None:
    reconciled: list[str] = []

    async def reconcile(key: str) -> None:
        reconciled.append(key)

    async with running(reconcile) as queue:
        for key in ("a", "b", "a", "a", "b"):
            queue.add_nowait(key)
        await trio.sleep(10)
        assert reconciled == ["a", "b"]
        queue.add_nowait("a")
        await trio.sleep(10)
        assert reconciled == ["a", "b", "a"]


async def test_a_key_added_while_it_is_reconciled_is_reconciled_once_more_and_never_twice_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    begun, busy = 0, 0

    async def reconcile(_: str) -> None:
        nonlocal begun, busy
        begun, busy = begun + 1, busy + 1
        assert busy == 1
        await trio.sleep(10)
        busy -= 1

    async with running(reconcile, workers=4) as queue:
        queue.add_nowait("a")
        await trio.sleep(1)
        for _ in range(3):
            queue.add_nowait("a")
        await trio.sleep(100)
    assert begun == 2


async def test_a_key_is_reconciled_again_after_the_returned_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times: list[float] = []

    async def reconcile(_: str) -> float | None:
        times.append(trio.current_time())
        return 7.0 if len(times) < 3 else None

    async with running(reconcile) as queue:
        began = trio.current_time()
        queue.add_nowait("a")
        await trio.sleep(100)
    assert [time - began for time in times] == pytest.approx([0, 7, 14])


async def test_what_is_added_meanwhile_replaces_the_repetition(autojump_clock: trio.testing.MockClock) -> None:
    times: list[float] = []

    async def reconcile(_: str) -> float | None:
        times.append(trio.current_time())
        return 50.0 if len(times) == 1 else None

    async with running(reconcile) as queue:
        began = trio.current_time()
        queue.add_nowait("a")
        await trio.sleep(5)
        queue.add_nowait("a")
        await trio.sleep(100)
    assert [time - began for time in times] == pytest.approx([0, 5])


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(ClusterError(Fault.UNREACHABLE, "nobody answers", "wait"), id="the cluster's failure"),
        pytest.param(ValueError("nobody answers"), id="an object that cannot be used"),
    ],
)
async def test_a_failure_is_logged_and_tried_again_after_growing_pauses_and_delays_no_other_key(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    times: dict[str, list[float]] = {"bad": [], "good": []}

    async def reconcile(key: str) -> None:
        times[key].append(trio.current_time())
        if key == "bad" and len(times[key]) <= 3:
            raise failure

    async with running(reconcile, workers=1) as queue:
        began = trio.current_time()
        queue.add_nowait("bad")
        queue.add_nowait("good")
        await trio.sleep(100)
        assert [time - began for time in times["good"]] == pytest.approx([0])
        assert [time - began for time in times["bad"]] == pytest.approx([0, 0.2, 0.6, 1.4])
        why = "nobody answers" if isinstance(failure, ClusterError) else "ValueError (exclave/controller/queue.py:LINE)"
        lines = [re.sub(r"py:[0-9]+", "py:LINE", line) for line in caplog.messages]
        assert lines == [f"bad: tried again: {why}"] * 3
        times["bad"].clear()
        began = trio.current_time()
        queue.add_nowait("bad")
        await trio.sleep(0.3)
        assert [time - began for time in times["bad"]] == pytest.approx([0, 0.2]), "success forgets earlier failures"


@pytest.mark.parametrize(
    "failure",
    [KeyError("uid"), TypeError(), AttributeError(), RecursionError(), AssertionError(), ValueError()],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_fault_of_one_key_does_not_stop_the_others(
    autojump_clock: trio.testing.MockClock, failure: Exception
) -> None:
    reconciled: list[str] = []

    async def reconcile(key: str) -> None:
        reconciled.append(key)
        if key == "bad":
            raise failure

    async with running(reconcile, workers=1) as queue:
        for key in ("bad", "good"):
            queue.add_nowait(key)
        await trio.sleep(1.0)
        queue.add_nowait("late")
        await trio.sleep(100)
    assert reconciled.count("good") == reconciled.count("late") == 1
    assert reconciled.count("bad") > 3


@pytest.mark.slow
async def test_a_key_that_is_added_at_every_moment_and_fails_does_not_fill_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    reconciled = 0

    async def reconcile(_: str) -> None:
        nonlocal reconciled
        reconciled += 1
        raise TypeError

    async with running(reconcile) as queue:
        for _ in range(6000):
            queue.add_nowait("bad")
            await trio.sleep(0.1)
    assert reconciled >= 6000
    assert len(caplog.messages) < 25, "the pause between two lines grows to a minute, as that between two tries"


def test_pauses_end_at_a_minute() -> None:
    assert FAILURES.pause(100, 0.0) == 60.0


async def test_workers_reconcile_several_keys_at_once(autojump_clock: trio.testing.MockClock) -> None:
    most, busy = 0, 0

    async def reconcile(_: str) -> None:
        nonlocal most, busy
        busy += 1
        most = max(most, busy)
        await trio.sleep(1)
        busy -= 1

    async with running(reconcile, workers=3) as queue:
        for key in "abcdefg":
            queue.add_nowait(key)
        await trio.sleep(10)
    assert most == 3


async def test_other_tasks_run_between_keys_that_need_no_io(autojump_clock: trio.testing.MockClock) -> None:
    """A leader renews its Lease in between, however many members a controller reconciles at its start."""
    reconciled, turns = 0, []

    async def reconcile(key: str) -> None:
        nonlocal reconciled
        reconciled += 1

    async def renew() -> None:
        while reconciled < 1000:
            turns.append(reconciled)
            await trio.lowlevel.checkpoint()

    async with running(reconcile) as queue, trio.open_nursery() as nursery:
        for number in range(1000):
            queue.add_nowait(f"{number}")
        nursery.start_soon(renew)
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) < 10


async def test_the_nearest_repetition_comes_first_whatever_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reconciled: list[tuple[str, float]] = []
    pauses = {"late": 50.0, "soon": 5.0, "between": 20.0}
    began = trio.current_time()

    async def reconcile(key: str) -> float | None:
        reconciled.append((key, trio.current_time() - began))
        return pauses.pop(key, None)

    async with running(reconcile, workers=1) as queue:
        for key in ("late", "soon", "between"):
            queue.add_nowait(key)
        queue.add_later_nowait("other", 30.0)
        queue.add_later_nowait("sooner", 2.0)
        await trio.sleep(100)
    assert [(key, round(when)) for key, when in reconciled[3:]] == [
        ("sooner", 2), ("soon", 5), ("between", 20), ("other", 30), ("late", 50),
    ]  # fmt: skip


async def test_many_keys_of_one_lane_delay_a_key_of_another_lane_by_one_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reconciled: list[str] = []

    async def reconcile(key: str) -> None:
        await trio.sleep(1)
        reconciled.append(key)

    def lane_of(key: str) -> tuple[str, str]:
        namespace, group, _ = key.split("/")
        return namespace, group

    queue: WorkQueue[str] = WorkQueue(reconcile, lambda: 0.0, lane_of)
    for number in range(400):
        queue.add_nowait(f"shop/flood/{number}")
    for key in ("shop/web/1", "bank/pay/1", "shop/web/2"):
        queue.add_nowait(key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run, 1)
        await trio.sleep(8.5)
        nursery.cancel_scope.cancel()
    assert reconciled == [
        "shop/flood/0", "bank/pay/1", "shop/web/1", "shop/flood/1", "shop/web/2", "shop/flood/2", "shop/flood/3",
        "shop/flood/4",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers())))
def test_lanes_lose_nothing_and_each_has_its_own_order(keys: list[tuple[int, int, int]]) -> None:
    lanes: Lanes[tuple[int, int, int]] = Lanes(lambda key: key[:2])
    for key in keys:
        lanes.append(key)
    found = []
    while lanes:
        found.append(lanes.popleft())
    assert sorted(found) == sorted(keys)
    for lane in {key[:2] for key in keys}:
        assert [key for key in found if key[:2] == lane] == [key for key in keys if key[:2] == lane]


async def test_a_key_that_is_added_reads_no_key_that_is_due_later(autojump_clock: trio.testing.MockClock) -> None:
    """Else 10,000 machines that wait make each change cost 10,000."""

    class Counting(dict[str, float]):
        reads = 0

        def values(self) -> Any:
            self.reads += 1
            return super().values()

    async def reconcile(key: str) -> float | None:
        return 600.0 if key.startswith("waiting") else None

    async with running(reconcile) as queue:
        for number in range(100):
            queue.add_nowait(f"waiting {number}")
        await trio.sleep(1)
        due = queue._due = Counting(queue._due)
        for number in range(100):
            queue.add_nowait(f"{number}")
            await trio.sleep(0.01)
        assert len(due) == 100 and due.reads < 5
