"""Async tests in a network of their own: a thread whose network namespace nobody else has.

@in_network_namespace("169.254.77.1", "10.77.0.20")
async def test_…() -> None: …

Sockets that the test opens are in it, and programs that `subprocess` starts from its own thread; not those that trio
starts, which may come from a thread of an earlier test. Trio's threads that were started in it leave it with the test,
since later tests are given them. `virtual=True` runs it in virtual time. Needs root.
"""

import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from support.trio_timeout import Run, cancelled_at_timeout

_CLONE_NEWNET = 0x4000_0000
_LIBC = ctypes.CDLL(None, use_errno=True)

Test = Callable[[], Awaitable[None]]


def in_network_namespace(*addresses: str, virtual: bool = False) -> Callable[[Test], Callable[[], None]]:
    """Run the test where `lo` has these addresses, and nothing else is."""

    def decorate(test: Test) -> Callable[[], None]:
        def main(run: Run) -> None:
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            assert _LIBC.unshare(_CLONE_NEWNET) == 0  # this thread, and what it starts
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in addresses:
                subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
            clock = trio.testing.MockClock(autojump_threshold=0) if virtual else None
            try:
                run.run(test, clock)
            finally:
                _bring_home(home)
                os.close(home)

        @functools.wraps(test)
        def run_in_thread() -> None:
            run, failure = Run(), list[BaseException]()

            def inside() -> None:
                try:
                    main(run)
                except BaseException as problem:
                    failure.append(problem)

            thread = threading.Thread(target=inside, daemon=True)
            thread.start()
            with cancelled_at_timeout(run):
                thread.join()
            if failure:
                raise failure[0]

        del run_in_thread.__wrapped__  # type: ignore[attr-defined]  # pytest would take the async one
        return run_in_thread

    return decorate


def _bring_home(home: int) -> None:
    """Have all of trio's threads that wait to be used again be in this network."""
    crowd = threading.active_count()  # no fewer than wait
    all_there = threading.Barrier(crowd + 1)

    def go_home() -> None:
        assert _LIBC.setns(home, _CLONE_NEWNET) == 0
        all_there.wait(30)

    for _ in range(crowd):
        trio.lowlevel.start_thread_soon(go_home, lambda outcome: outcome.unwrap())
    all_there.wait(30)
