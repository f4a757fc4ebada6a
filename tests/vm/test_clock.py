"""The clock is wrong by five hours for a while, also at boot: a member reports that, recovers and sends no plaintext.

The kernel's clock is the host's, so libfaketime shows another one to the agent and to its proxies.
"""

import time

import pytest
import trio

from exclave_sandbox.expect import eventually
from support.figures import add_figure
from vm.lab import Installed, begin_with_clock, is_meshed, open_lab, wait_codes
from vm.machine import LIMIT, BootedMachine
from vm.traffic import open_sampler, sampler_words

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install libfaketime"
CLOCK = "/opt/clock"
RIGHT = "+0"

FAKED = f"""\
[Service]
Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME_TIMESTAMP_FILE={CLOCK}
Environment=FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1
Environment=FAKETIME_DISABLE_SHM=1
"""


async def fake_clock(machine: BootedMachine) -> None:
    """Let agent and proxies see the clock that the file CLOCK describes."""
    machine.write(CLOCK, RIGHT)
    await machine.shell(INSTALL)
    for unit in ("exclave.service", "exclave-proxy@.service"):
        machine.write(f"/etc/systemd/system/{unit}.d/clock.conf", FAKED)
    await machine.shell("systemctl daemon-reload; systemctl restart exclave")


@pytest.mark.parametrize("clock", ["+5h", "-5h"])
async def test_a_clock_that_is_wrong_for_a_while_and_at_boot(installed: Installed, clock: str) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await fake_clock(machine)
        await lab.join(machine)
        agent = await machine.properties("exclave.service", "MainPID")
        async with open_sampler(sampler_words(lab.stage)) as sampler:
            await sampler.wait_meshed(began := time.monotonic())
            machine.write(CLOCK, clock)
            await wait_codes(machine, begin_with_clock)
            machine.write(CLOCK, RIGHT)
            await is_meshed(lab, machine)
            await sampler.wait_meshed(time.monotonic())
            add_figure(f"{installed.debian}: clock {clock} for a while: {sampler.outcomes(began)}")
            assert await machine.properties("exclave.service", "MainPID") == agent

            machine.write(CLOCK, clock)
            rebooted = time.monotonic()
            await machine.reboot()
            await wait_explained(machine)
            machine.write(CLOCK, RIGHT)  # as NTP does
            await is_meshed(lab, machine)
            await sampler.wait_meshed(time.monotonic())
            add_figure(f"{installed.debian}: booted with a clock of {clock}: {sampler.outcomes(rebooted)}")
            assert sampler.outcomes(began).get("plain", 0) == 0


async def wait_explained(machine: BootedMachine) -> None:
    """Wait until the status that a person reads names the clock."""

    async def shown() -> str:
        return (await machine.run("exclave", "status")).output.decode()

    with trio.fail_after(LIMIT):
        await eventually("the clock in the status", shown, lambda text: "clock" in str(text), 0.5)
