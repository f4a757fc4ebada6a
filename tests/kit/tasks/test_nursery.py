"""Nurseries and shields."""

import pytest
import trio
import trio.testing

from exclave.kit.tasks.nursery import members, open_bare_nursery, shielded


async def fail(problem: Exception) -> None:
    raise problem


async def test_what_the_body_raises_comes_out_bare() -> None:
    problem = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise problem
    assert caught.value is problem
    assert caught.value.__context__ is None


async def test_what_a_task_raises_comes_out_bare_though_the_body_is_cancelled_for_it() -> None:
    problem = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(fail, problem)
            await trio.sleep_forever()
    assert caught.value is problem


async def test_two_failures_come_out_as_a_group() -> None:
    with pytest.raises(Exception) as caught:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(fail, KeyError("one"))
            nursery.start_soon(fail, ValueError("two"))
    assert {type(member) for member in members(caught.value)} == {KeyError, ValueError}


async def test_a_group_that_the_body_raises_stays_one_group() -> None:
    with pytest.raises(Exception) as caught:
        async with open_bare_nursery():
            async with trio.open_nursery() as inner:
                inner.start_soon(fail, KeyError("one"))
                inner.start_soon(fail, ValueError("two"))
    assert {type(member) for member in members(caught.value)} == {KeyError, ValueError}


async def test_one_failure_within_groups_comes_out_bare() -> None:
    problem = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with open_bare_nursery():
            async with trio.open_nursery() as inner:
                inner.start_soon(fail, problem)
    assert caught.value is problem


async def test_a_cancellation_from_outside_passes_through() -> None:
    with trio.move_on_after(0) as outer:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert outer.cancelled_caught


async def test_its_own_cancellation_ends_it_quietly() -> None:
    async with open_bare_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()


def test_only_groups_have_members() -> None:
    assert members(KeyError("mine")) == ()


async def test_what_is_shielded_ends_though_all_around_it_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    is_done = False
    with trio.CancelScope() as around:
        around.cancel()
        with shielded(5.0) as scope:
            await trio.sleep(4.0)
            is_done = True
        assert not scope.cancelled_caught
        await trio.sleep(1.0)
    assert is_done and trio.current_time() == 4.0


async def test_what_exceeds_its_limit_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    with trio.CancelScope() as around:
        around.cancel()
        with shielded(5.0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
    assert trio.current_time() == 5.0


async def test_what_fails_inside_comes_out() -> None:
    with pytest.raises(KeyError), shielded(5.0):
        raise KeyError("mine")
