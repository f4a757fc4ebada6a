"""Booted machines. `./tests/run --vm` makes what they need and runs them; no other run does."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from support.needs import need
from vm.lab import Installed, Packages, install
from vm.roots import DEBIANS, cache_folder, layers_of


@pytest.fixture(scope="session")
def packages() -> Packages:
    """The packages that `./tests/run --vm` built."""
    named = os.environ.get("EXCLAVE_VM_PACKAGES")
    need(named is not None, "booted machines are tested by ./tests/run --vm")
    need(os.geteuid() == 0 and shutil.which("systemd-nspawn") is not None, "needs root and systemd-container")
    links = [name for _, name in socket.if_nameindex() if name != "lo"]
    need(not links, "booted machines are tested in a network namespace of their own: ./tests/run --vm")
    folder = Path(str(named))
    return Packages(folder / "new.deb", folder / "old.deb")


@pytest.fixture(scope="session", params=DEBIANS)
def installed(
    request: pytest.FixtureRequest, packages: Packages, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """A machine on which the package was installed."""
    debian: str = request.param
    layers = layers_of(debian, packages.new, cache_folder())
    need(not layers.missing(), f"there is no root of Debian {debian}; ./tests/run --vm makes it")
    yield trio.run(install, debian, layers, packages, tmp_path_factory.mktemp(debian))
