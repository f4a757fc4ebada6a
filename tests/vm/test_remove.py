"""Removal ends everything and keeps the membership; purge leaves every file as it was before the installation."""

import json
from pathlib import Path

import pytest

from exclave_sandbox.stage.namespaces import open_network
from support.figures import add_figure
from vm.lab import Installed, furnish, nothing_runs, open_lab
from vm.machine import BootedMachine, open_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

FILES = Path(__file__).parent / "inside/files.py"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y"

BACKUPS = {f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")}
"""Written by systemd-sysusers and userdel: each file as it was before the last change."""


async def files(machine: BootedMachine) -> set[str]:
    machine.copy(FILES, "/opt/files.py")
    return set(json.loads(await machine.must("/usr/bin/python3", "-IB", "/opt/files.py")))


async def test_a_removed_member_runs_nothing_and_joins_no_second_time(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        machine.copy(installed.packages.new, "/root/exclave.deb")
        await machine.boot()
        await lab.join(machine)
        await machine.shell(f"{APT} remove exclave")
        await nothing_runs(machine)
        assert (machine.root / "var/lib/exclave/membership.json").is_file()
        assert not (machine.root / "usr/lib/exclave/exclave").exists()
        await machine.shell(f"{APT} install /root/exclave.deb")
        await lab.wait_ready(machine)


@pytest.mark.part
async def test_a_purge_leaves_every_file_as_it_was(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await machine.shell(f"{APT} purge exclave")
        before = await files(machine)
        machine.copy(installed.packages.new, "/root/exclave.deb")
        await machine.shell(f"{APT} install /root/exclave.deb")
        assert differences(before, await files(machine))
        furnish(machine)
        await lab.join(machine)
        assert "kubectl exclave member evict" in await machine.shell(f"{APT} purge exclave")
        await nothing_runs(machine)
        assert differences(before, await files(machine)) == []


async def test_an_idle_package_leaves_nothing(installed: Installed, tmp_path: Path) -> None:
    """Dependencies are there before. What the package itself brings goes with it."""
    layers = [installed.system.archives, installed.system.system]
    async with open_network() as network:
        async with open_machine("clean", "10.77.0.30", layers, tmp_path, network.switch) as machine:
            await machine.boot()
            machine.copy(installed.packages.new, "/root/exclave.deb")
            await machine.shell(
                'deps=$(dpkg-deb --field /root/exclave.deb Depends); '
                f'{APT} satisfy "$deps"; {APT} install python3'
            )  # fmt: skip
            before = await files(machine)
            await machine.shell(f"{APT} install /root/exclave.deb")
            new = differences(before, await files(machine))
            assert new
            await machine.shell(f"{APT} purge exclave")
            left = differences(before, await files(machine))
            add_figure(
                f"{installed.debian}: the package brings {len(new)} files and folders; a purge leaves {len(left)}"
            )
            assert left == []


def differences(before: set[str], after: set[str]) -> list[str]:
    """Lines that came (+) or went (-)."""
    lines = [f"+{line}" for line in after - before] + [f"-{line}" for line in before - after]
    return sorted(line for line in lines if line[1:].split()[0] not in BACKUPS)
