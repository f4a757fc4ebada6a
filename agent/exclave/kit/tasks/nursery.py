"""Nurseries that raise a failure without a group, so that `except ApiRefusal` works around them; shields."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_bare_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that raises a single failure, of the body or of a task, without a group around it."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseException as problem:
        failure = _only_failure(problem)
        if failure is problem:
            raise
    else:
        return
    raise failure  # outside of `except`, so that the group does not become its context


def _only_failure(problem: BaseException) -> BaseException:
    failures = [member for member in members(problem) if not _is_cancellation(member)]
    return _only_failure(failures[0]) if len(failures) == 1 else problem


def _is_cancellation(problem: BaseException) -> bool:
    inside = members(problem)
    return all(map(_is_cancellation, inside)) if inside else isinstance(problem, trio.Cancelled)


def members(problem: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group, else none. Before Python 3.11, groups have no common class."""
    return tuple(getattr(problem, "exceptions", ()))


def shielded(seconds: float) -> trio.CancelScope:
    """A scope without cancellation from outside, cancelled after so many seconds."""
    return trio.CancelScope(shield=True, deadline=trio.current_time() + seconds)
