"""Restarts parts that fail, with growing pauses. A part that returns is done."""

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from exclave.errors import describe
from exclave.kit.tasks.backoff import Attempts, Backoff

log = logging.getLogger(__name__)

RESTARTS = Backoff(first=1.0, most=60.0)
SETTLED = 60.0  # seconds of a run after which a failure counts as the first one


async def supervise(
    name: str,
    part: Callable[[], Awaitable[None]],
    *,
    backoff: Backoff = RESTARTS,
    draw: Callable[[], float] = random.random,
) -> None:
    """Run `part` until it returns; after a failure, wait and run it again.

    The log gets our own errors with their text, a bug with its type and place.
    """
    attempts = Attempts(settled=SETTLED)
    while True:
        started = trio.current_time()
        try:
            await part()
            return
        except Exception as problem:
            pause = attempts.failed(backoff, draw(), ran_for=trio.current_time() - started)
            log.warning("%s: failed and starts again in %.1f s: %s", name, pause, describe(problem))
        await trio.sleep(pause)
