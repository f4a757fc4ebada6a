"""The users and groups of this machine. The name service may query a server (LDAP) and take minutes."""

import grp
import inspect
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import trio

LOOKUP_TIME = 10.0  # seconds for one answer; then its thread, which nothing can end, is abandoned

T = TypeVar("T")

# trio renamed the option in version 0.23; Debian 12 has 0.22.
_RENAMED = "abandon_on_cancel" in inspect.signature(trio.to_thread.run_sync).parameters
_ABANDON: dict[str, Any] = {"abandon_on_cancel" if _RENAMED else "cancellable": True}


@dataclass(frozen=True)
class User:
    """A user. `gid`: its primary group."""

    name: str
    uid: int
    gid: int


async def find_user(name: str) -> User | None:
    """The user with this name or number; None if there is none. Raises trio.TooSlowError after `LOOKUP_TIME`."""
    query = partial(pwd.getpwuid, int(name)) if is_number(name) else partial(pwd.getpwnam, name)
    found = await _resolve(query)
    return None if found is None else User(found.pw_name, found.pw_uid, found.pw_gid)


async def find_group(name: str) -> int | None:
    """The number of the group with this name; None if there is none. Raises trio.TooSlowError after `LOOKUP_TIME`."""
    found = await _resolve(partial(grp.getgrnam, name))
    return None if found is None else found.gr_gid


def is_number(name: str) -> bool:
    """True if it is the number of a user or group, not a name."""
    return name.isascii() and name.isdecimal()


async def _resolve(query: Callable[[], T]) -> T | None:
    with trio.fail_after(LOOKUP_TIME):
        try:
            return await trio.to_thread.run_sync(query, **_ABANDON)
        except KeyError:
            return None
