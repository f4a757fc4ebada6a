"""Requests both ways go on while the agent is reloaded, restarted, killed, upgraded and downgraded.

None fails, and none arrives in plaintext.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from support.figures import add_figure
from vm.lab import Installed, Lab, nothing_runs, open_lab, proxy_pids, state_of
from vm.machine import LIMIT, BootedMachine
from vm.traffic import Load, open_load

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

STEADY = 40  # requests each way before and after an event


@asynccontextmanager
async def loaded_machine(
    installed: Installed, host: str = mesh.GROUP_SERVICE
) -> AsyncIterator[tuple[Lab, BootedMachine, Load]]:
    """A member with steady requests both ways; `host`: what the pod connects to."""
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        async with open_load(lab.stage, machine, host) as load:
            await load.more(STEADY)
            yield lab, machine, load


async def main_pid(machine: BootedMachine) -> int:
    return int((await machine.properties("exclave.service", "MainPID"))["MainPID"])


async def reload(machine: BootedMachine) -> None:
    before = await main_pid(machine)
    await machine.must("systemctl", "reload", "exclave")
    assert await main_pid(machine) == before


async def restart(machine: BootedMachine) -> None:
    before = await main_pid(machine)
    await machine.must("systemctl", "restart", "exclave")
    assert await main_pid(machine) != before


async def kill(machine: BootedMachine) -> None:
    before = await main_pid(machine)
    await machine.must("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "exclave")

    async def is_another() -> bool:
        return await main_pid(machine) not in (0, before)

    with trio.fail_after(LIMIT):
        await eventually("another agent", is_another, bool, 0.1)


async def upgrade(machine: BootedMachine) -> None:
    await apt_install(machine, "new.deb")


async def downgrade(machine: BootedMachine) -> None:
    await apt_install(machine, "old.deb")


async def apt_install(machine: BootedMachine, package: str) -> None:
    line = f"DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --allow-downgrades /root/{package}"
    await machine.shell(line)


EVENTS: dict[str, tuple[Callable[[BootedMachine], Awaitable[None]], ...]] = {
    "reload": (reload, reload),
    "restart": (restart, restart),
    "kill -9": (kill,),
    "downgrade and upgrade": (downgrade, upgrade),
}


@pytest.mark.parametrize(
    "event", [pytest.param(event, marks=[pytest.mark.part] * (event == "downgrade and upgrade")) for event in EVENTS]
)
async def test_no_request_fails_or_leaves_the_mesh(installed: Installed, event: str) -> None:
    async with loaded_machine(installed) as (lab, machine, load):
        for name in ("new", "old"):
            machine.copy(getattr(installed.packages, name), f"/root/{name}.deb")
        proxies = await proxy_pids(machine)
        assert proxies
        for change in EVENTS[event]:
            before, began = await load.figures(), time.monotonic()
            await change(machine)
            await lab.wait_ready(machine)
            took = time.monotonic() - began
            await load.more(STEADY)
            for way, counts in (await load.since(before)).items():
                add_figure(f"{installed.debian}: {change.__name__}: {way}: {counts}; ready after {took:.1f} s")
                assert (counts.failed, counts.plain, counts.broken) == (0, 0, 0), counts
        assert await proxy_pids(machine) == proxies


async def test_a_stopped_agent_leaves_nothing_that_runs_and_starts_again(installed: Installed) -> None:
    # By its address: its Service has no endpoint while it is stopped.
    async with loaded_machine(installed, "10.77.0.21") as (lab, machine, load):
        before = await load.figures()
        await machine.must("systemctl", "stop", "exclave")
        assert (await machine.properties("exclave.service", "ActiveState"))["ActiveState"] == "inactive"
        await nothing_runs(machine)
        await load.more(STEADY)
        for way, counts in (await load.since(before)).items():
            add_figure(f"{installed.debian}: stop: {way}: {counts}")
            # A reused connection ends with the proxy that serves it, at the latest when [proxy] drain is over.
            assert counts.failed <= counts.broken, counts
        await machine.must("systemctl", "start", "exclave")
        await lab.wait_ready(machine)
        assert await state_of(machine) == "ready"
