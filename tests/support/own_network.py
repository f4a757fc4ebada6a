"""Async tests in a network of their own: a thread whose network namespace nobody else has.

@in_own_network("169.254.77.1", "10.77.0.20")
async def test_…() -> None: …

Sockets that the test opens are in it, and programs that `subprocess` starts from its own thread; not those that trio
starts, which may come from a thread of an earlier test. `virtual=True` runs it in virtual time. Needs root.
"""

import ctypes
import functools
import subprocess
import threading
from collections.abc import Awaitable, Callable

import trio
import trio.testing

_CLONE_NEWNET = 0x4000_0000

Test = Callable[[], Awaitable[None]]


def in_own_network(*addresses: str, virtual: bool = False) -> Callable[[Test], Callable[[], None]]:
    """Run the test where `lo` has these addresses, and nothing else is."""

    def decorate(test: Test) -> Callable[[], None]:
        def main() -> None:
            assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0  # this thread, and what it starts
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in addresses:
                subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
            clock = trio.testing.MockClock(autojump_threshold=0) if virtual else None
            trio.run(test, clock=clock, strict_exception_groups=True)

        @functools.wraps(test)
        def run() -> None:
            failure: list[BaseException] = []

            def inside() -> None:
                try:
                    main()
                except BaseException as problem:
                    failure.append(problem)

            thread = threading.Thread(target=inside)
            thread.start()
            thread.join()
            if failure:
                raise failure[0]

        del run.__wrapped__  # type: ignore[attr-defined]  # pytest would take the async one
        return run

    return decorate
