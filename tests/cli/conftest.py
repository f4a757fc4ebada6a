"""The machine that types commands, for tests that ask for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.vm import Vm, isolated_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with isolated_folder() as made:
        yield made


@pytest.fixture
def vm(folder: Path) -> Vm:
    return Vm(folder)
