"""Waiting for a wall-clock time. A monotonic clock stops while a VM is suspended, so each sleep is short."""

from collections.abc import Callable

import trio

LONGEST_NAP = 30.0

Now = Callable[[], float]  # returns the wall-clock time: seconds since the epoch


async def sleep_until_wall(deadline: float, now: Now) -> None:
    """Return once `now()` has reached `deadline` (epoch seconds), at most `LONGEST_NAP` s late if the clock jumps."""
    await trio.lowlevel.checkpoint()  # a loop over deadlines in the past must let others run
    while (left := deadline - now()) > 0:  # noqa: ASYNC110  a clock that was set causes no event
        await trio.sleep(min(left, LONGEST_NAP))
