"""A member boots, reboots and loses its power: it comes back by itself.

An application that is ordered after exclave-ready.target sends and serves nothing outside of the mesh.
"""

import json
import random
import time

import pytest
import trio

from exclave.api.requests import MEMBERS, list_all
from exclave_sandbox.demo.membership import identity_of
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from support.figures import add_figure
from vm.lab import POD_BY_ADDRESS, Installed, Lab, open_lab
from vm.machine import LIMIT, BootedMachine
from vm.traffic import Sampler, open_sampler, sampler_words

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

CUTS = 10
LATEST = 9.0  # seconds after power-on in which the power is cut again

ORDERED = """\
[Unit]
Wants=exclave-ready.target
After=exclave-ready.target

[Service]
ExecStart=
ExecStart=/usr/bin/python3 -I /opt/application/echo.py web 8080 {url} /var/lib/application
"""


def order(machine: BootedMachine) -> None:
    """Have the application start after exclave-ready.target, and send a request as the first thing that it does."""
    drop_in = ORDERED.format(url=POD_BY_ADDRESS)
    machine.write("/etc/systemd/system/application.service.d/mesh.conf", drop_in)


async def first_requests(machine: BootedMachine, starts: int = 1) -> list[str | None]:
    """The identities that the pod saw in the application's first requests; waits until it has started so often."""
    file = machine.root / "var/lib/application"

    async def lines() -> list[str]:
        return file.read_text().splitlines() if file.exists() else []

    with trio.fail_after(LIMIT):
        await eventually("first requests", lines, lambda found: len(found) >= starts, 0.1)  # type: ignore[arg-type]
    return [json.loads(line)["client_id"] for line in await lines()]


async def members_of(lab: Lab) -> list[str]:
    listed = await lab.stage.admin.send(list_all(MEMBERS, mesh.NAMESPACE))
    return [item["metadata"]["name"] for item in listed["items"]]


async def reached_after(machine: BootedMachine) -> float:
    """Seconds from the start of systemd until exclave-ready.target was reached."""
    found = await machine.properties("exclave-ready.target", "ActiveEnterTimestampMonotonic")
    started = await machine.must("systemctl", "show", "--property=UserspaceTimestampMonotonic", "--value")
    return (int(found["ActiveEnterTimestampMonotonic"]) - int(started)) / 1e6


@pytest.mark.part
async def test_an_ordered_application_is_meshed_from_its_first_request_on(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        order(machine)
        await machine.boot()  # it is no member: the application starts all the same
        assert await first_requests(machine) == [None]
        await lab.join(machine)
        async with open_sampler(sampler_words(lab.stage)) as sampler:
            await sampler.wait_meshed(time.monotonic())
            rebooted = time.monotonic()
            await machine.reboot()
            back = await sampler.wait_meshed(rebooted + 1)
            await report(installed, "reboot", sampler, rebooted, back)
            add_figure(
                f"{installed.debian}: systemd reaches exclave-ready.target in {await reached_after(machine):.1f} s"
                f" (without exclave it boots in {installed.boots_in:.1f} s)"
            )
            assert sampler.outcomes(rebooted).get("plain", 0) == 0
        assert await first_requests(machine, 2) == [None, identity_of(mesh.GROUP)]
        assert len(await members_of(lab)) == 1


OFFLINE = """\
[Match]
Name=host0

[Network]
DHCP=yes
"""
"""systemd-networkd-wait-online waits for this link for two minutes: nobody answers DHCP."""


async def test_a_boot_does_not_wait_for_a_network_that_is_away(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        network = machine.root / "etc/systemd/network/10-host0.network"
        online = network.read_text()
        for state in ("unjoined", "member"):
            if state == "member":
                await lab.join(machine)
                await machine.power_off()
            network.write_text(OFFLINE)
            began = time.monotonic()
            await machine.boot()
            took = time.monotonic() - began
            for unit in ("network-online.target", "systemd-networkd-wait-online.service"):
                found = await machine.properties(unit, "ActiveState", "InactiveExitTimestampMonotonic")
                assert found == {"ActiveState": "inactive", "InactiveExitTimestampMonotonic": "0"}, (state, unit)
            assert (await machine.properties("exclave.service", "ActiveState"))["ActiveState"] == "active", state
            add_figure(
                f"{installed.debian}: {state}, without a network: booted in {took:.1f} s"
                f" (without exclave, with a network: {installed.boots_in:.1f} s)"
            )
            network.write_text(online)
            await machine.shell("networkctl reload; networkctl reconfigure host0")
        await lab.wait_ready(machine)


async def test_ten_power_cuts_at_random_moments(installed: Installed) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    add_figure(f"{installed.debian}: power cuts: seed {seed}")
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        order(machine)
        await machine.boot()
        await lab.join(machine)
        async with open_sampler(sampler_words(lab.stage)) as sampler:
            began = time.monotonic()
            await sampler.wait_meshed(began)
            for _ in range(CUTS - 1):
                await machine.cut_power()
                await machine.power_on()
                await trio.sleep(draw.uniform(0, LATEST))
            cut = time.monotonic()
            await machine.cut_power()
            await machine.boot()
            back = await sampler.wait_meshed(cut)
            await report(installed, f"power cut, the last of {CUTS}", sampler, cut, back)
            assert sampler.outcomes(began).get("plain", 0) == 0, f"seed {seed}"
        await lab.wait_ready(machine)
        assert set((await first_requests(machine, 2))[1:]) == {identity_of(mesh.GROUP)}, f"seed {seed}"
        assert len(await members_of(lab)) == 1


async def report(installed: Installed, what: str, sampler: Sampler, since: float, back: float) -> None:
    """Add a figure. Without mesh: from the event to the first meshed connection."""
    outcomes = sampler.outcomes(since)
    plain = outcomes.pop("plain", 0)
    failed = sum(outcomes.values()) - outcomes.get("meshed", 0)
    add_figure(
        f"{installed.debian}: {what}: {back - since:.1f} s without mesh, {failed} failed and {plain} plaintext"
        f" of {sum(outcomes.values()) + plain} connections (without exclave it boots in {installed.boots_in:.1f} s)"
    )
