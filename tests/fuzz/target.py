"""A fuzz target: one parser of bytes from outside, and the rules for every parser.

Rules: a parser returns, or raises an error that it declares. It takes LONGEST seconds of processor time and MOST_MEMORY
bytes at most, whatever it reads.
"""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

LONGEST = 2.0
MOST_MEMORY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Target:
    """`parse` gets the bytes. `seeds` are valid inputs, from which others are made.

    `errors`: what it may raise. `covers`: the parsers that are tried with it, for the test that none is forgotten.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...] = ()
    covers: tuple[Callable[..., object], ...] = ()

    def run(self, content: bytes) -> float:
        """Parse, in seconds of processor time. Fails on an error that is not declared, and if it takes too long."""
        began = time.thread_time()
        with suppress(*self.errors):
            self.parse(content)
        used = time.thread_time() - began
        assert used < LONGEST, f"{self.name}: {used:.1f} s for {len(content)} bytes"
        return used

    def run_measured(self, content: bytes) -> None:
        """Parse, and fail if it takes too much memory. Measuring makes it slow, so time does not count."""
        tracemalloc.start()
        try:
            with suppress(*self.errors):
                self.parse(content)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < MOST_MEMORY, f"{self.name}: {most} bytes of memory for {len(content)} bytes"
