"""Clean-up that is cancelled by its own limit alone."""

import pytest
import trio
import trio.testing

from exclave.kit.tasks.shield import shielded


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


async def test_what_takes_longer_than_its_limit_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    with trio.CancelScope() as around:
        around.cancel()
        with shielded(5.0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
    assert trio.current_time() == 5.0


async def test_what_fails_inside_comes_out() -> None:
    with pytest.raises(KeyError), shielded(5.0):
        raise KeyError("mine")
