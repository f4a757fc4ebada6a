"""Real Kubernetes servers for tests, on loopback: which releases have been built here, and how to run one.

Each is the demo's (`exclave_sandbox.stage.kubernetes`), on free ports. Its programs can be ended, killed and started
again while the block runs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exclave_sandbox.stage.kubernetes import RELEASES, Kubernetes, Layout, binaries_in, cache_folder, find_binaries
from exclave_sandbox.stage.kubernetes import running_kubernetes as run_on
from support.needs import free_port

__all__ = ["AVAILABLE", "RELEASES", "Kubernetes", "cache", "is_built", "running_kubernetes"]


def cache() -> Path:
    """The folder of the binaries."""
    return cache_folder(os.environ, Path.home())


def is_built(release: str) -> bool:
    """Whether the programs of a release have been built here."""
    return not binaries_in(cache(), release).missing()


AVAILABLE = [release for release in RELEASES if is_built(release)]
"""The releases that tests can run against here."""


@contextmanager
def running_kubernetes(release: str, folder: Path) -> Iterator[Kubernetes]:
    """Run a release while the block runs; all its files go into the folder."""
    with run_on(find_binaries(release), Layout(folder, "127.0.0.1", *(free_port() for _ in range(3)))) as found:
        yield found
