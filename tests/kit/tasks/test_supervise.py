"""Parts that restart by themselves."""

import itertools

import pytest
import trio

from exclave.kit.tasks.supervise import describe, supervise


async def test_a_part_that_returns_is_done() -> None:
    async def part() -> None:
        runs.append(1)

    runs: list[int] = []
    await supervise("names", part)
    assert runs == [1]


async def test_a_part_that_fails_starts_again_after_growing_pauses_and_says_why(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def part() -> None:
        starts.append(trio.current_time())
        if len(starts) < 4:
            raise OSError(98, "Address already in use")

    starts: list[float] = []
    await supervise("names", part, draw=lambda: 0.0)
    assert [start - starts[0] for start in starts] == pytest.approx([0, 1, 3, 7])
    assert caplog.messages[0] == "names: failed and starts again in 1.0 s: [Errno 98] Address already in use"
    assert len(caplog.messages) == 3


async def test_a_part_that_ran_for_a_while_starts_again_at_the_first_pause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def part() -> None:
        starts.append(trio.current_time())
        if len(starts) == 4:
            await trio.sleep(61)
        if len(starts) < 6:
            raise ValueError

    starts: list[float] = []
    await supervise("names", part, draw=lambda: 0.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps == pytest.approx([1, 2, 4, 62, 2])


async def test_a_cancellation_passes_through(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(5) as scope:
        await supervise("names", trio.sleep_forever)
    assert scope.cancelled_caught


async def test_a_part_with_a_nursery_starts_again_too(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def part() -> None:
        runs.append(1)
        if len(runs) == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                await trio.sleep_forever()

    async def fail() -> None:
        raise ValueError("inside")

    runs: list[int] = []
    await supervise("names", part, draw=lambda: 0.0)
    assert caplog.messages == ["names: failed and starts again in 1.0 s: inside"]


async def test_a_bug_that_is_no_exception_is_not_kept_alive() -> None:
    async def part() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await supervise("names", part)


def test_a_failure_is_described_in_one_line() -> None:
    assert describe(ValueError("text")) == "text"
    assert describe(ValueError()) == "ValueError"
