"""Waits that become long are said, once."""

import logging

import pytest
import trio

from exclave.cluster.waiting import Waits


async def test_a_short_wait_leaves_no_trace(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.announce)
        for _ in range(3):
            with waits.over("to get members web-1"):
                await trio.sleep(14.9)
                assert waits.latest.value is None
        nursery.cancel_scope.cancel()
    assert not caplog.records


async def test_a_long_wait_is_published_and_logged_with_the_newest_reason(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.announce)
        with waits.over("to get members web-1") as wait:
            await trio.sleep(5)
            waits.explain(wait, "it is away")
            await trio.sleep(10.1)
            assert waits.latest.value == "to get members web-1: it is away"
            waits.explain(wait, "it is busy")
            await trio.sleep(20)
            assert waits.latest.value == "to get members web-1: it is busy"
        await trio.testing.wait_all_tasks_blocked()
        assert waits.latest.value is None
        nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for 15 s to get members web-1: it is away",
        "no longer waiting after 35 s: to get members web-1",
    ]


async def test_the_oldest_of_several_long_waits_is_published(autojump_clock: trio.testing.MockClock) -> None:
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.announce)
        first = waits.begin("first")
        await trio.sleep(1)
        second = waits.begin("second")
        await trio.sleep(20)
        assert waits.latest.value == "first: no answer yet"
        waits.end(first)
        await trio.testing.wait_all_tasks_blocked()
        assert waits.latest.value == "second: no answer yet"
        waits.end(second)
        nursery.cancel_scope.cancel()
