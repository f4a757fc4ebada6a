"""An admin of the sandbox's API server, which runs as a process of its own, and a namespace for each test."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.conftest import Server, run_sandbox
from support.admin import Admin, admin_of

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_sandbox("sandbox", tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture
def admin(server: Server, tmp_path: Path) -> Admin:
    return admin_of(server, tmp_path)


@pytest.fixture
def namespace() -> str:
    """A name; the commands make the namespace."""
    return f"town-{next(NUMBERS)}"
