"""The machine's disk, clock, address and package manager fail a member; it reports that, and recovers by itself."""

import time

import pytest
import trio

from exclave.api.requests import EXTERNAL_WORKLOADS, get
from exclave.errors import Fault
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from support.figures import add_figure
from vm.lab import Installed, Lab, client_of, codes_of, open_lab, proxy_pids, state_of, status_of
from vm.machine import LIMIT, BootedMachine
from vm.traffic import open_sampler, sampler_words

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

SHORT = "20s"  # the lifetime of certificates that are to expire, or to be renewed, within a test
PAUSE = 30.0  # seconds, longer than SHORT
NEW_ADDRESS = "10.77.0.99"

FILL = "dd if=/dev/zero of=/var/lib/exclave/filler bs=4k 2>/dev/null || true"
SMALL_DISK = """\
systemctl stop exclave
mount -t tmpfs -o size=256k,mode=0700 tmpfs /var/lib/exclave
systemctl start exclave
"""
READ_ONLY = "mount --bind /var /var; mount -o remount,bind,ro /var"

INTERRUPTED = """\
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -y --allow-downgrades install /root/old.deb >/dev/null 2>&1 &
until pgrep -f "[e]xclave.postinst" >/dev/null; do :; done
kill -9 $(pgrep -x dpkg) $(pgrep -x apt-get)
pkill -9 -f "[e]xclave.postinst" || true
"""


async def test_a_certificate_that_expired_during_a_pause_is_renewed(installed: Installed) -> None:
    async with open_lab(installed, SHORT) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        async with open_sampler(sampler_words(lab.stage)) as sampler:
            began = time.monotonic()
            await sampler.wait_meshed(began)
            machine.freeze()
            await trio.sleep(PAUSE)  # the certificate expires by the clock of the host, which cannot be virtual
            machine.thaw()
            thawed = time.monotonic()
            back = await sampler.wait_meshed(thawed)
            plain = sampler.outcomes(began).get("plain", 0)
            add_figure(
                f"{installed.debian}: paused for {PAUSE:.0f} s, with a certificate of {SHORT}:"
                f" meshed again after {back - thawed:.1f} s, {plain} plaintext"
            )
            assert plain == 0
        await lab.wait_ready(machine)


async def test_a_full_disk_is_reported_and_traffic_goes_on(installed: Installed) -> None:
    async with open_lab(installed, SHORT) as lab, lab.open_machine() as machine:
        await machine.boot()
        await machine.shell(SMALL_DISK)
        await machine.shell(FILL)
        refused = await machine.run("exclave", "join", "--token-file", "-", stdin=(await lab.token()).encode())
        assert refused.status == Fault.DISK.code, refused.errors
        await machine.shell("rm /var/lib/exclave/filler")
        await lab.join(machine)
        await machine.shell(FILL)

        async def problems() -> str:
            return (await machine.run("exclave", "status")).output.decode()

        with trio.fail_after(LIMIT):
            await eventually("a problem", problems, lambda text: "No space left" in str(text), 0.5)
        assert await client_of(lab, machine)
        await machine.shell("rm /var/lib/exclave/filler")
        with trio.fail_after(LIMIT):
            await eventually("no problem", problems, lambda text: "No space left" not in str(text), 0.5)
        await lab.wait_ready(machine)


async def test_a_member_starts_on_a_read_only_var_and_reports_what_it_cannot_write(installed: Installed) -> None:
    async with open_lab(installed, "60s") as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        await machine.shell(f"systemctl stop exclave; {READ_ONLY}")
        await machine.must("systemctl", "start", "exclave")
        await lab.wait_ready(machine)
        assert await client_of(lab, machine)

        async def problems() -> str:
            return (await machine.run("exclave", "status")).output.decode()

        with trio.fail_after(LIMIT):  # a certificate of 60 s is due
            await eventually("a problem", problems, lambda text: "Read-only file system" in str(text), 0.5)
        # The running agent's mounts are its own, and stay as they were when it started.
        await machine.shell("mount -o remount,bind,rw /var; systemctl restart exclave")
        with trio.fail_after(LIMIT):
            await eventually("no problem", problems, lambda text: "Read-only file system" not in str(text), 0.5)
        await lab.wait_ready(machine)
        assert await client_of(lab, machine)


async def test_a_member_survives_when_run_is_emptied(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        async with open_sampler(sampler_words(lab.stage)) as sampler:
            began = time.monotonic()
            await sampler.wait_meshed(began)
            proxies = await proxy_pids(machine)
            await machine.shell("rm -rf /run/exclave/*")
            await lab.wait_ready(machine)  # its socket is back
            await machine.must("systemctl", "restart", "exclave")
            await lab.wait_ready(machine)
            await sampler.wait_meshed(time.monotonic())
            outcomes = sampler.outcomes(began)
            # What was written within the last seconds before is lost. Then the next agent swaps the proxy.
            assert proxies <= await proxy_pids(machine)
            assert await codes_of(machine) == []
        add_figure(f"{installed.debian}: /run/exclave emptied, then restarted: {outcomes}")
        assert outcomes.get("plain", 0) == 0


async def test_a_new_address_is_served(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        member = (await status_of(machine))["member"]["name"]
        file = "/etc/systemd/network/10-host0.network"
        began = time.monotonic()
        await machine.shell(f"sed -i s/{machine.address}/{NEW_ADDRESS}/ {file}; networkctl reload")
        await machine.shell("networkctl reconfigure host0")

        async def listed() -> object:
            return (await lab.stage.admin.send(get(EXTERNAL_WORKLOADS, mesh.NAMESPACE, member)))["spec"]["workloadIPs"]

        with trio.fail_after(LIMIT):
            await eventually("the new address", listed, lambda ips: ips == [{"ip": NEW_ADDRESS}], 0.2)
            await eventually("ready", lambda: state_of(machine), lambda state: state == "ready", 0.2)
        add_figure(f"{installed.debian}: a new address is listed and ready after {time.monotonic() - began:.1f} s")
        assert await client_of(lab, machine, NEW_ADDRESS)


async def test_an_interrupted_upgrade_during_a_join_is_finished_later(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        machine.copy(installed.packages.old, "/root/old.deb")
        await machine.boot()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_join_untested, lab, machine)
            # dpkg is killed in the middle: while it configures the package.
            await machine.shell(INTERRUPTED)
        broken = await machine.must("dpkg-query", "--show", "--showformat=${Status}", "exclave")
        assert broken != "install ok installed"
        await machine.must("dpkg", "--configure", "--pending")
        if await state_of(machine) == "unjoined":
            await lab.join(machine)
        await lab.wait_ready(machine)
        assert await client_of(lab, machine)


async def _join_untested(lab: Lab, machine: BootedMachine) -> None:
    """Its agent, and its program, may be replaced meanwhile: any outcome will do."""
    await machine.run("exclave", "join", "--token-file", "-", stdin=(await lab.token()).encode())
