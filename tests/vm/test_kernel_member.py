"""A member on a kernel of its own: a reboot, a stepped clock, a pause of the machine and a restored snapshot."""

import time

import pytest
import trio

from exclave_sandbox.expect import eventually
from support.figures import add_figure
from vm.image import Guest
from vm.lab import begin_with_clock, is_meshed, wait_codes
from vm.qemu import GuestMachine
from vm.traffic import Sampler, open_sampler, sampler_words

pytestmark = [pytest.mark.vm, pytest.mark.qemu, pytest.mark.timeout(3600)]

PATIENCE = 900.0  # seconds, on a machine that translates all code
FIVE_HOURS = 5 * 3600.0  # seconds
LIFETIME, PAUSE = "2m", 130.0
"""A certificate's, and the seconds of a pause that is longer."""


async def report(sampler: Sampler, began: float, what: str) -> None:
    """Wait until the pod's connections are meshed again, print what became of all, and require that none was plain."""
    await sampler.wait_meshed(time.monotonic(), PATIENCE)
    outcomes = sampler.outcomes(began)
    add_figure(f"a kernel of its own: {what}: {outcomes}")
    assert outcomes.get("plain", 0) == 0


async def renew(machine: GuestMachine) -> None:
    """Renew its certificate, which the agent refuses within a minute of the last one."""

    async def renewed() -> bool:
        done = await machine.run("exclave", "renew", "--timeout", f"{PATIENCE:.0f}s", timeout=PATIENCE)
        return done.status == 0

    with trio.fail_after(PATIENCE):
        await eventually("another certificate", renewed, bool, 5.0)


async def test_a_member_joins_reboots_and_survives_a_stepped_clock(guest: Guest) -> None:
    async with guest.open_lab() as (lab, machine):
        await lab.join(machine)
        await is_meshed(lab, machine)
        async with open_sampler(sampler_words(lab.stage, patience="30")) as sampler:
            await sampler.wait_meshed(began := time.monotonic(), PATIENCE)
            await machine.reboot()
            await machine.set_clock(time.time())
            await is_meshed(lab, machine)
            await report(sampler, began, "a reboot")
            for step in (FIVE_HOURS, -FIVE_HOURS):
                began = time.monotonic()
                await machine.set_clock(time.time() + step)
                await wait_codes(machine, begin_with_clock)
                await machine.set_clock(time.time())  # as NTP does
                await is_meshed(lab, machine)
                await report(sampler, began, f"a clock that stepped by {step / 3600:+.0f} h, and back")


async def test_a_member_whose_certificate_ended_while_the_machine_was_paused(guest: Guest) -> None:
    async with guest.open_lab(LIFETIME) as (lab, machine):
        await lab.join(machine)
        await is_meshed(lab, machine)
        async with open_sampler(sampler_words(lab.stage, patience="30")) as sampler:
            await sampler.wait_meshed(began := time.monotonic(), PATIENCE)
            await machine.monitor("stop")
            await trio.sleep(PAUSE)  # the certificate ends by the cluster's clock
            await machine.monitor("cont")
            await machine.set_clock(time.time())  # it stood meanwhile
            await is_meshed(lab, machine)
            await report(sampler, began, f"a pause of {PAUSE:.0f} s, with certificates of {LIFETIME}")


async def test_a_member_goes_back_to_a_snapshot_from_before_a_renewal(guest: Guest) -> None:
    async with guest.open_lab() as (lab, machine):
        await lab.join(machine)
        await is_meshed(lab, machine)
        await machine.save("joined")
        await machine.wait_reachable()
        # The cluster has a certificate for a key afterwards that the snapshot does not have.
        await renew(machine)
        async with open_sampler(sampler_words(lab.stage, patience="30")) as sampler:
            await sampler.wait_meshed(began := time.monotonic(), PATIENCE)
            await machine.load("joined")
            await machine.set_clock(time.time())
            await is_meshed(lab, machine, "key-not-ours")
            await report(sampler, began, "a snapshot restored")
        await renew(machine)
        await is_meshed(lab, machine, "key-not-ours")  # until five later certificates were signed
