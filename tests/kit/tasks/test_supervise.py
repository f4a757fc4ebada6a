"""Parts that restart by themselves."""

import itertools
import re

import pytest
import trio

from exclave.api.member import make_condition
from exclave.errors import Fault, HostError
from exclave.kit.tasks.supervise import supervise


async def test_a_part_that_returns_is_done() -> None:
    async def part() -> None:
        runs.append(1)

    runs: list[int] = []
    await supervise("names", part)
    assert runs == [1]


async def test_a_part_that_fails_starts_again_after_growing_pauses_and_logs_why(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def part() -> None:
        starts.append(trio.current_time())
        if len(starts) < 4:
            raise OSError(98, "Address already in use")

    starts: list[float] = []
    await supervise("names", part, draw=lambda: 0.0)
    assert [start - starts[0] for start in starts] == pytest.approx([0, 1, 3, 7])
    (place,) = re.findall(r" \(exclave/kit/tasks/supervise.py:[0-9]+\)$", caplog.messages[0])
    why = "OSError: [Errno 98] Address already in use"
    assert caplog.messages[0] == f"names: failed and starts again in 1.0 s: {why}{place}"
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
        raise HostError(Fault.DISK, "inside", "free some space")

    runs: list[int] = []
    await supervise("names", part, draw=lambda: 0.0)
    assert caplog.messages == ["names: failed and starts again in 1.0 s: inside"]


async def test_a_base_exception_is_raised() -> None:
    async def part() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await supervise("names", part)


async def test_a_bug_is_logged_with_its_type_and_place(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def part() -> None:
        runs.append(1)
        if len(runs) == 1:
            make_condition(None, 0.0)  # type: ignore[arg-type]

    runs: list[int] = []
    await supervise("names", part, draw=lambda: 0.0)
    (message,) = caplog.messages
    assert re.fullmatch(
        r"names: failed and starts again in 1\.0 s: AttributeError: 'NoneType' object has no attribute 'type' "
        r"\(exclave/api/member\.py:[0-9]+\)",
        message,
    )
