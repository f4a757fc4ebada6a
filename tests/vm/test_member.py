"""A machine joins with one line; requests pass both ways under mutual TLS."""

import pytest

from exclave_sandbox.demo.membership import identity_of
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.stage import fetch
from support.figures import add_figure
from vm.lab import POD_BY_ADDRESS, POD_BY_SERVICE, Installed, fetch_inside, open_lab, state_of

pytestmark = [pytest.mark.vm, pytest.mark.part, pytest.mark.timeout(1200)]


async def test_a_machine_joins_and_serves_both_ways(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        assert await state_of(machine) == "unjoined"
        took = await lab.join(machine)
        add_figure(
            f"{installed.debian}: joined and ready in {took:.1f} s; "
            f"install to meshed in {installed.seconds + took:.1f} s"
        )
        assert await state_of(machine) == "ready"
        inbound = await fetch(lab.stage.pod, f"http://{machine.address}:{mesh.GROUP_PORT}/")
        assert inbound["client_id"] == identity_of(mesh.POD_NAME)
        for url in (POD_BY_ADDRESS, POD_BY_SERVICE):
            assert (await fetch_inside(machine, url))["client_id"] == identity_of(mesh.GROUP)
