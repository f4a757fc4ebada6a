"""Booted machines. `./tests/run --vm` makes what they need and runs them; no other run does."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from support.needs import need
from vm.image import DEBIAN, Guest, kernel_root, make_guest
from vm.lab import Installed, Packages, install
from vm.qemu import PROGRAM
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
    return Packages(folder / "new.deb", folder / "old.deb", folder / "bad.deb")


@pytest.fixture(scope="session", params=DEBIANS)
def installed(
    request: pytest.FixtureRequest, packages: Packages, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """A machine on which the package was installed."""
    debian: str = request.param
    layers = layers_of(debian, packages.new, cache_folder())
    need(not layers.missing(), f"there is no root of Debian {debian}; ./tests/run --vm makes it")
    yield trio.run(install, debian, layers, packages, tmp_path_factory.mktemp(debian))


@pytest.fixture(scope="session")
def guest(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """The disk of a machine with a kernel of its own, on which the package was installed, and that installation."""
    for program in (PROGRAM, "qemu-img", "ssh"):
        need(
            shutil.which(program) is not None,
            f"a machine with a kernel of its own needs {program} (qemu-system-x86, qemu-utils, openssh-client)",
        )
    need(Path("/dev/net/tun").exists(), "a machine with a kernel of its own needs /dev/net/tun")
    layers = layers_of(DEBIAN, packages.new, cache_folder())
    need(
        not layers.missing() and kernel_root(cache_folder()).is_dir(),
        "there is no root with a kernel; ./tests/run --vm makes it",
    )
    return trio.run(make_guest, packages, layers.archives, tmp_path_factory.mktemp("guest"))
