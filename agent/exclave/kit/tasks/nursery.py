"""A nursery for doors: what fails inside comes out as itself.

trio's nurseries wrap every failure in a group, so a plain `except ApiRefusal` around an `async with open_x()` whose
door keeps a nursery would never match. Rules: one failure comes out bare, with the cancellations it caused left out;
several come out as the group that they are.
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
    """What an exception group holds; nothing for other exceptions. Groups have no common class before Python 3.11."""
    return tuple(getattr(problem, "exceptions", ()))
