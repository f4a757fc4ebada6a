"""Async tests in a network namespace of their own.

@in_network_namespace("169.254.77.1", "10.77.0.20")
async def test_…() -> None: …

Sockets of the test are in it, and programs that `subprocess` starts. Programs that trio starts are not, since they may
start in a thread of an earlier test. `virtual=True` runs the test in virtual time. Needs root.
"""

import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from plugin.trio_timeout import Run, cancelled_at_timeout

_CLONE_NEWNET = 0x4000_0000
_LIBC = ctypes.CDLL(None, use_errno=True)

Test = Callable[[], Awaitable[None]]


def in_network_namespace(*addresses: str, virtual: bool = False) -> Callable[[Test], Callable[[], None]]:
    """Run the test with these addresses on `lo`, and no other link."""

    def decorate(test: Test) -> Callable[[], None]:
        @functools.wraps(test)
        def run_inside() -> None:
            run, home = Run(), os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            assert _LIBC.unshare(_CLONE_NEWNET) == 0  # this thread, and what it starts
            try:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                for address in addresses:
                    subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
                with cancelled_at_timeout(run):
                    run.run(test, trio.testing.MockClock(autojump_threshold=0) if virtual else None)
            finally:
                _leave(home)
                os.close(home)

        del run_inside.__wrapped__  # type: ignore[attr-defined]  # pytest would take the async one
        return run_inside

    return decorate


def _leave(home: int) -> None:
    """Move this thread and all idle threads of trio, which it reuses, into the network namespace `home`."""
    assert _LIBC.setns(home, _CLONE_NEWNET) == 0
    count = threading.active_count()  # at least as many as are idle
    all_there = threading.Barrier(count + 1)

    def move_back() -> None:
        assert _LIBC.setns(home, _CLONE_NEWNET) == 0
        all_there.wait(30)

    for _ in range(count):
        trio.lowlevel.start_thread_soon(move_back, lambda outcome: outcome.unwrap())
    all_there.wait(30)
