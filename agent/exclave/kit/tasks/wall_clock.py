"""Waiting for a wall-clock time, on a machine that may be suspended in between.

A monotonic clock stops while a VM is suspended, so one long sleep would wake too late: naps of at most
`LONGEST_NAP` seconds look at the wall clock in between.
"""

from collections.abc import Callable

import trio

LONGEST_NAP = 30.0

Now = Callable[[], float]
"""Tells the wall clock: seconds since the epoch."""


async def sleep_until_wall(deadline: float, now: Now) -> None:
    """Return once `now()` has reached `deadline` (seconds since the epoch), within one nap of a clock that jumps."""
    await trio.lowlevel.checkpoint()  # a loop over deadlines that have passed must let others run
    while (left := deadline - now()) > 0:  # noqa: ASYNC110  no event tells that a clock moved
        await trio.sleep(min(left, LONGEST_NAP))
