"""What a member costs while nothing happens, and how the units are confined, by systemd's own measure."""

import os
import re

import pytest
import trio

from support.figures import add_figure
from vm.lab import Installed, open_lab, status_of
from vm.machine import BootedMachine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

IDLE = float(os.environ.get("EXCLAVE_VM_IDLE", "60"))  # seconds; 300 for the figure of a release
SECURITY = {"exclave.service": 2.2, "exclave-proxy@a.service": 1.3}  # the highest score of each unit

RSS = "awk '/^VmRSS/ {print $2}' /proc/$1/status"


async def usage(machine: BootedMachine, unit: str) -> int:
    """Nanoseconds of CPU that a unit has used."""
    return int((await machine.properties(unit, "CPUUsageNSec"))["CPUUsageNSec"])


async def test_an_idle_member_is_measured(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        proxy = (await status_of(machine))["proxy"]
        units = {"agent": "exclave.service", "proxy (a stand-in)": f"exclave-proxy@{proxy['active']}.service"}
        before = {unit: await usage(machine, unit) for unit in units.values()}
        await trio.sleep(IDLE)  # what is measured is this time
        for what, unit in units.items():
            used = (await usage(machine, unit) - before[unit]) / 1e6
            shown = await machine.properties(unit, "MainPID", "MemoryCurrent")
            rss = int(await machine.must("sh", "-euc", RSS, "rss", shown["MainPID"])) / 1024
            add_figure(
                f"{installed.debian}: {what}: {used:.0f} ms of CPU in {IDLE:.0f} idle seconds,"
                f" RSS {rss:.0f} MiB, MemoryCurrent {shown['MemoryCurrent']}"
            )
            assert used < IDLE * 100  # a tenth of a core: an idle program that polls too often


@pytest.mark.parametrize("unit", SECURITY)
async def test_a_unit_is_confined(installed: Installed, unit: str) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        printed = await machine.must("systemd-analyze", "security", "--no-pager", unit)
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", printed)
        assert found is not None, printed
        add_figure(f"{installed.debian}: systemd-analyze security {unit}: {found[1]}")
        assert float(found[1]) <= SECURITY[unit], printed
