"""Rows with the real Linkerd: `EXCLAVE_REAL=FOLDER ./tests/run --real`.

The folder has linkerd, linkerd-controller, linkerd-policy-controller and linkerd2-proxy of one release. No package
registry has them, so only this option runs these tests. It runs them in network and mount namespaces of their own.
"""

import os
from pathlib import Path

import pytest

from exclave_sandbox.linkerd.release import LinkerdBinaries, find_linkerd
from real.mesh import FOLDER

collect_ignore_glob = [] if os.environ.get(FOLDER) else ["test_*.py"]
"""`./tests/run` prints that they are left out."""


@pytest.fixture(scope="session")
def release() -> LinkerdBinaries:
    """The programs."""
    return find_linkerd(Path(os.environ[FOLDER]).resolve())
