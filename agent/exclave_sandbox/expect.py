"""Comparing what is found with what is expected, and waiting until it is so."""

import sys
from collections.abc import Awaitable, Callable

import trio


class UnexpectedError(Exception):
    """Something else was found than expected; the text has both."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raise UnexpectedError unless they are equal."""
    if found != wanted:
        raise UnexpectedError(f"{what}: {wanted} was expected, found {found}")


async def eventually(
    what: str, read: Callable[[], Awaitable[object]], accept: Callable[[object], bool], every: float = 0.05
) -> object:
    """Read until the value is acceptable, and return it. When cancelled, write the last value to standard error."""
    value: object = None
    try:
        while True:
            value = await read()
            if accept(value):
                return value
            await trio.sleep(every)
    except trio.Cancelled:
        sys.stderr.write(f"waited for {what}; last value: {str(value)[:2000]}\n")
        raise
