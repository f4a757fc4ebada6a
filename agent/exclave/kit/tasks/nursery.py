"""Nurseries that raise a failure as itself, and shields with a time limit.

trio wraps each failure in a group, so `except ApiRefusal` around a door that has a nursery would never match.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_bare_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose single failure, of the body or of a task, is raised without a group around it."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseException as problem:
        failure = _only_failure(problem)
        if failure is problem:
            raise
    else:
        return
    raise failure  # here, outside of `except`, so that the group does not become its context


def _only_failure(problem: BaseException) -> BaseException:
    failures = [member for member in members(problem) if not _is_cancellation(member)]
    return _only_failure(failures[0]) if len(failures) == 1 else problem


def _is_cancellation(problem: BaseException) -> bool:
    inside = members(problem)
    return all(map(_is_cancellation, inside)) if inside else isinstance(problem, trio.Cancelled)


def members(problem: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group, else none. Groups have no common class before Python 3.11."""
    return tuple(getattr(problem, "exceptions", ()))


def shielded(seconds: float) -> trio.CancelScope:
    """A scope that no cancellation from outside reaches, and that is cancelled after so many seconds."""
    return trio.CancelScope(shield=True, deadline=trio.current_time() + seconds)
