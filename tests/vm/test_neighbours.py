"""Debian's firewalld and Docker run on the same machine: a member stays in the mesh when they start and reload."""

import pytest

from exclave_sandbox.demo.membership import identity_of
from exclave_sandbox.stage import mesh
from support.figures import add_figure
from vm.lab import POD_BY_SERVICE, Installed, client_of, fetch_inside, open_lab
from vm.traffic import open_load

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install"


async def test_a_member_beside_firewalld_that_opens_only_the_application_s_port(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await machine.shell(f"{APT} firewalld")
        await machine.shell(f"systemctl start firewalld; firewall-cmd --quiet --add-port={mesh.GROUP_PORT}/tcp")
        assert await machine.shell("firewall-cmd --list-ports") == f"{mesh.GROUP_PORT}/tcp\n"
        await lab.join(machine)
        async with open_load(lab.stage, machine) as load:
            await load.more(20)
            before = await load.figures()
            await machine.shell("firewall-cmd --quiet --runtime-to-permanent; firewall-cmd --quiet --reload")
            await load.more(60)
            for way, counts in (await load.since(before)).items():
                add_figure(f"{installed.debian}: firewalld reloads: {way}: {counts}")
                assert (counts.failed, counts.plain) == (0, 0), counts
        await machine.reboot()
        await lab.wait_ready(machine)
        assert await client_of(lab, machine) == identity_of(mesh.POD_NAME)
        assert (await fetch_inside(machine, POD_BY_SERVICE))["client_id"] == identity_of(mesh.GROUP)


async def test_a_member_beside_docker(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        await machine.shell(f"{APT} docker.io iptables")
        await machine.must("systemctl", "start", "docker")
        assert "docker0" in await machine.must("ip", "-brief", "link")
        async with open_load(lab.stage, machine) as load:
            await load.more(20)
            before = await load.figures()
            await machine.must("systemctl", "restart", "docker")
            await load.more(60)
            for way, counts in (await load.since(before)).items():
                add_figure(f"{installed.debian}: Docker restarts: {way}: {counts}")
                assert (counts.failed, counts.plain) == (0, 0), counts
        await machine.reboot()
        await lab.wait_ready(machine)
        assert await client_of(lab, machine) == identity_of(mesh.POD_NAME)
