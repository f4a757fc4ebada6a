"""Notifications to systemd. Source: sd_notify(3)."""

import os
import socket
import time
from collections.abc import Mapping
from math import inf

from exclave.errors import BUG, find_error
from exclave.kit.formats.visible_text import visible

MAX_STATUS = 400  # characters of a status; `systemctl status` prints it on one line


_refused: list[tuple[str, ...]] = []  # of this process: what its full queue did not accept yet


def notify(*assignments: str) -> bool:
    """Send assignments such as "READY=1" to the socket in NOTIFY_SOCKET (@: abstract). True if nothing waits then.

    What a full queue refuses is sent before the next ones, in its order, or by a call without any. Of several STATUS=
    the newest is sent. WATCHDOG=1 is not sent again: the next one follows.
    """
    if assignments and assignments[0].startswith("STATUS="):
        _refused[:] = [one for one in _refused if not one[0].startswith("STATUS=")]
    waiting = [*_refused, assignments] if assignments else list(_refused)
    while waiting and _send(waiting[0]):
        del waiting[0]
    _refused[:] = [one for one in waiting if one != ("WATCHDOG=1",)]
    return not waiting


def _send(assignments: tuple[str, ...]) -> bool:
    """False if the queue is full. Without a listener there is nothing to be done."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Without NONBLOCK, a full queue would block the agent.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.sendto("\n".join(assignments).encode(), address)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


def reloading() -> tuple[str, str]:
    """The assignments that begin a reload, which ends with "READY=1"."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def stopping(seconds: float) -> tuple[str, str]:
    """The assignments that begin a stop, and ask for up to so many seconds for it."""
    return "STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def status(text: str) -> str:
    """The assignment that shows a text in `systemctl status`, on one line and cut to MAX_STATUS characters."""
    line = visible("; ".join(line.strip() for line in text.splitlines()).replace(":; ", ": "))
    return f"STATUS={line if len(line) <= MAX_STATUS else line[: MAX_STATUS - 1] + '…'}"


def failure(problem: BaseException) -> tuple[str, ...]:
    """The assignments for a process that ends by an exception: our own error's text and hint, or that it is a bug."""
    error = find_error(problem)
    if error is None:
        return (status(f"ended by {BUG}"),)
    number = getattr(error.__cause__, "errno", None)
    # Without an errno, systemd shows the exit status alone.
    return status(f"{error.message}; to do: {error.hint}"), *([f"ERRNO={number}"] if isinstance(number, int) else [])


def watchdog_time(environment: Mapping[str, str], pid: int) -> float:
    """Seconds within which systemd expects "WATCHDOG=1" from this process; infinite if it expects none.

    Source: sd_watchdog_enabled(3).
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return inf
    number = environment.get("WATCHDOG_USEC", "")
    return int(number) / 1e6 if number.isdecimal() and int(number) else inf
