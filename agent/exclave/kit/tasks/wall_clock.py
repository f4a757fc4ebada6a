"""Waiting for a wall-clock time.

A monotonic clock stops while a VM is suspended. So no sleep is longer than `LONGEST_NAP` seconds.
"""

from collections.abc import Callable

import trio

LONGEST_NAP = 30.0

Now = Callable[[], float]  # returns the wall-clock time: seconds since the epoch


async def sleep_until_wall(deadline: float, now: Now) -> None:
    """Return once `now()` has reached `deadline` (seconds since the epoch), within one nap of a clock that jumps."""
    await trio.lowlevel.checkpoint()  # a loop over deadlines that have passed must let others run
    while (left := deadline - now()) > 0:  # noqa: ASYNC110  no event tells that a clock moved
        await trio.sleep(min(left, LONGEST_NAP))
