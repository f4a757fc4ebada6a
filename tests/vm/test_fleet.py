"""Machines from one golden image join at once at their first boot; two clones of one member are reported."""

import os
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from exclave.api.requests import MEMBERS, list_all
from exclave.member.write_limit import PAUSES
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from support.figures import add_figure
from support.needs import need
from vm.lab import Installed, open_lab, status_of
from vm.machine import LIMIT

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

FLEET = int(os.environ.get("EXCLAVE_VM_FLEET", "10"))  # machines; 30 take some minutes on two cores
INOTIFY = {"bookworm": 9, "trixie": 4}  # inotify instances of a machine, which count as those of one user
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
DOUBLINGS = 10  # a first write, and pauses that double up to the longest
CREDENTIAL = "/etc/credstore/exclave.join-token"


async def test_a_fleet_from_one_image_joins_at_its_first_boot(installed: Installed) -> None:
    wanted = FLEET * INOTIFY[installed.debian]
    is_enough = int(INOTIFY_LIMIT.read_text()) >= wanted
    need(is_enough, f"{FLEET} machines need more inotify instances: sysctl fs.inotify.max_user_instances={wanted}")
    async with open_lab(installed) as lab, AsyncExitStack() as stack:
        machines = [await stack.enter_async_context(lab.open_machine(number)) for number in range(1, FLEET + 1)]
        for machine in machines:
            machine.write(CREDENTIAL, await lab.token(), 0o600)
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for machine in machines:
                nursery.start_soon(machine.boot)
        booted = time.monotonic() - began
        for machine in machines:
            await lab.wait_ready(machine, 2 * LIMIT)
        took = time.monotonic() - began
        add_figure(
            f"{installed.debian}: {FLEET} machines from one image booted at once in {booted:.0f} s, "
            f"all ready after {took:.0f} s"
        )
        listed = await lab.stage.admin.send(list_all(MEMBERS, mesh.NAMESPACE))
        assert len(listed["items"]) == FLEET


async def test_two_clones_of_a_member_are_reported_and_write_little(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine(1) as first, lab.open_machine(2) as second:
        await first.boot()
        await lab.join(first)
        await first.power_off()
        for path in ("etc/machine-id", "var/lib/exclave"):  # what a copy of its disk has
            source, target = first.root / path, second.root / path
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)
        since = time.time()
        await first.boot()
        await second.boot()

        async def conditions() -> list[str]:
            listed = await lab.stage.admin.send(list_all(MEMBERS, mesh.NAMESPACE))
            found = [one for item in listed["items"] for one in item["status"]["conditions"]]
            return [one["message"] for one in found if one["type"] == "Cloned" and one["status"] == "True"]

        with trio.fail_after(LIMIT):
            await eventually("a condition Cloned", conditions, bool, 0.5)

        async def reported() -> set[str]:
            both = [await status_of(machine) for machine in (first, second)]
            return {problem["code"] for status in both for problem in status.get("problems", [])}

        with trio.fail_after(LIMIT):
            await eventually(
                "the problems", reported, lambda codes: {"cloned", "address-overwritten"} <= set(codes), 0.5
            )
        for machine in (first, second):
            writes = (await machine.journal(f"--since=@{since:.0f}")).count("moving: [step=patched")
            seconds = time.time() - since
            assert writes > 0
            add_figure(f"{installed.debian}: a clone wrote its address {writes} times in {seconds:.0f} s")
            assert writes <= DOUBLINGS + seconds / PAUSES.most
