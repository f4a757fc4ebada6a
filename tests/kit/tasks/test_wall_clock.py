"""Wall-clock deadlines on machines that sleep and clocks that jump."""

import math

import pytest
import trio

from exclave.kit.tasks.wall_clock import LONGEST_NAP, sleep_until_wall


class Wall:
    """A wall clock over virtual time, which somebody may set."""

    def __init__(self) -> None:
        self.offset = 1_800_000_000.0

    def __call__(self) -> float:
        return self.offset + trio.current_time()


async def test_it_wakes_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    wall = Wall()
    deadline = wall() + 100
    await sleep_until_wall(deadline, wall)
    assert wall() == pytest.approx(deadline)


async def test_a_deadline_that_has_passed_returns_at_once_and_lets_others_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wall = Wall()
    started = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await sleep_until_wall(wall() - 1, wall)
    assert scope.cancelled_caught
    assert trio.current_time() == started


async def test_after_a_suspension_it_wakes_within_a_nap(autojump_clock: trio.testing.MockClock) -> None:
    wall = Wall()

    async def suspend() -> None:
        await trio.sleep(45)
        wall.offset += 86_400

    async with trio.open_nursery() as nursery:
        nursery.start_soon(suspend)
        await sleep_until_wall(wall() + 3_600, wall)
    assert trio.current_time() <= 45 + LONGEST_NAP


async def test_a_clock_set_back_makes_it_wait_longer(autojump_clock: trio.testing.MockClock) -> None:
    wall = Wall()

    async def set_back() -> None:
        await trio.sleep(10)
        wall.offset -= 50

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_back)
        await sleep_until_wall(wall() + 100, wall)
    assert trio.current_time() == pytest.approx(150)


async def test_for_ever_is_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(86_400) as waited:
        await sleep_until_wall(math.inf, Wall())
    assert waited.cancelled_caught
