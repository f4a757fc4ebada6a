"""Waiting until something becomes true, with a message when it does not."""

import sys
from collections.abc import Awaitable, Callable

import trio


class UnexpectedError(Exception):
    """A step met something else than it expected; the text says both."""


async def eventually(
    what: str, look: Callable[[], Awaitable[object]], accept: Callable[[object], bool], every: float = 0.05
) -> object:
    """Look until what is seen is acceptable; at the end of the step's time, tell what was seen last."""
    seen: object = None
    try:
        while True:
            seen = await look()
            if accept(seen):
                return seen
            await trio.sleep(every)
    except trio.Cancelled:
        sys.stderr.write(f"waited for {what}; seen last: {str(seen)[:2000]}\n")
        raise
