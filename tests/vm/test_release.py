"""apt installs exclave from the repository of a release, and from no other: those of wrong signatures are refused."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exclave import __version__
from exclave_sandbox.stage.namespaces import open_network
from support.needs import need
from vm.lab import Packages
from vm.machine import BootedMachine, open_machine
from vm.repository import make_repository
from vm.roots import DEBIANS, cache_folder, layers_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200), pytest.mark.parametrize("debian", DEBIANS)]

SOURCE = "/etc/apt/sources.list.d/exclave.sources"
KEY = "/etc/apt/keyrings/exclave.asc"

# The lists of Debian stay as they are: the machine has no network, only the archives of what exclave needs.
UPDATE = (
    f"apt-get -q -o Dir::Etc::sourcelist={SOURCE} -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 "
    "-o APT::Update::Error-Mode=any update"
)
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install exclave"


@asynccontextmanager
async def open_clean(debian: str, packages: Packages, folder: Path) -> AsyncIterator[BootedMachine]:
    """A booted machine without exclave, which has the release's repository in /srv/apt."""
    need(packages.release.is_dir(), "no release could be built; ./tests/run --vm prints the reason")
    layers = layers_of(debian, packages.new, cache_folder())
    need(not layers.missing(), f"there is no root of Debian {debian}; ./tests/run --vm makes it")
    async with open_network() as network:
        paths = [layers.archives, layers.system]
        async with open_machine("clean", "10.77.0.30", paths, folder, network.switch) as machine:
            await machine.boot()
            machine.copy(packages.release / "apt", "/srv/apt")
            machine.copy(packages.release / "exclave.asc", KEY)
            machine.write(
                SOURCE, f"Types: deb\nURIs: file:/srv/apt\nSuites: stable\nComponents: main\nSigned-By: {KEY}\n"
            )
            yield machine


async def expect_refused(machine: BootedMachine, command: str, *reasons: str) -> None:
    """The command fails and prints a reason, as gpg of Debian 12 or sqv of Debian 13 has it; nothing is installed."""
    done = await machine.run("sh", "-c", f"{command} 2>&1")
    assert done.status != 0
    assert any(reason in done.output.decode() for reason in reasons), done.output.decode()
    assert not (machine.root / "usr/bin/exclave").exists()


async def test_apt_installs_from_a_releases_repository(debian: str, packages: Packages, tmp_path: Path) -> None:
    async with open_clean(debian, packages, tmp_path) as machine:
        await machine.shell(UPDATE)
        await machine.shell(INSTALL)
        assert await machine.must("exclave", "--version") == f"exclave {__version__}\n"
        assert "file:/srv/apt stable/main" in await machine.shell("apt-cache policy exclave")
        status = await machine.run("systemctl", "status", "exclave")
        assert "exclave join" in status.output.decode()


async def test_a_repository_with_a_wrong_signature_is_refused(debian: str, packages: Packages, tmp_path: Path) -> None:
    async with open_clean(debian, packages, tmp_path / "machine") as machine:
        pool = machine.root / "srv/apt/pool"
        machine.write(KEY, make_repository(tmp_path / "another", []))
        await expect_refused(machine, UPDATE, "NO_PUBKEY", "Missing key")
        machine.copy(packages.release / "exclave.asc", KEY)

        signed = machine.root / "srv/apt/dists/stable/InRelease"
        text = signed.read_text()
        signed.write_text(text.replace("Origin: exclave", "Origin: Exclave"))
        await expect_refused(machine, UPDATE, "BADSIG", "Message has been manipulated")
        signed.unlink()  # apt falls back to these two
        (signed.parent / "Release.gpg").unlink()
        await expect_refused(machine, UPDATE, "is not signed")
        signed.write_text(text)

        for lists in signed.parent.glob("main/*/Packages*"):
            lists.write_bytes(lists.read_bytes()[:-1] + b"x")
        await expect_refused(machine, UPDATE, "Hash Sum mismatch")
        shutil.copytree(packages.release / "apt/dists", machine.root / "srv/apt/dists", dirs_exist_ok=True)
        await machine.shell(UPDATE)

        (package,) = pool.glob("exclave_*.deb")
        package.write_bytes(package.read_bytes()[:-1] + b"x")
        await expect_refused(machine, INSTALL, "Hash Sum mismatch")
