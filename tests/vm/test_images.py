"""The recipes of agent/docs/roll-out.md for images and cloud-init, executed as they are written there."""

import re
from contextlib import AsyncExitStack

import pytest
import trio
import yaml

from architecture.tree import TOP
from docs.markdown import Document
from vm.lab import Installed, open_lab, state_of
from vm.machine import BootedMachine, open_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

DOCUMENT = Document((TOP / "agent/docs/roll-out.md").read_text())
CREDENTIAL = "/etc/credstore/exclave.join-token"


def block(section: str, language: str) -> str:
    """The first block of code of a section."""
    found = re.search(rf"^```{language}\n(.*?)^```$", DOCUMENT.section(section).text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def machine_id(machine: BootedMachine) -> str:
    return (machine.root / "etc/machine-id").read_text().strip()


async def test_machines_of_a_golden_image_join_with_ids_of_their_own(installed: Installed) -> None:
    *lines, last = block("An image", "sh").splitlines()
    assert last == "systemctl poweroff"
    async with open_lab(installed) as lab:
        async with lab.open_machine(1) as image:
            before = machine_id(image)
            await image.boot()
            await image.shell("\n".join(lines))
            await image.power_off()
        layers = [image.folder / "layer", *installed.layers]
        async with AsyncExitStack() as stack:
            machines = []
            for number in (2, 3):
                where = (f"vm{number}", f"10.77.0.{20 + number}", layers, lab.stage.scratch / f"vm{number}")
                machine = await stack.enter_async_context(open_machine(*where, lab.stage.network.switch))
                assert machine_id(machine) == ""
                machine.write(CREDENTIAL, await lab.token(), 0o600)
                machines.append(machine)
            async with trio.open_nursery() as nursery:
                for machine in machines:
                    nursery.start_soon(machine.boot)
            for machine in machines:
                await lab.wait_ready(machine)
            ids = {before, *map(machine_id, machines)}
            assert len(ids) == 3
            assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


async def test_user_data_of_cloud_init_makes_a_member_also_after_the_boot(installed: Installed) -> None:
    user_data = yaml.safe_load(block("cloud-init", "yaml"))
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        assert await state_of(machine) == "unjoined"
        for file in user_data["write_files"]:
            text = file["content"].replace("TOKEN", await lab.token())
            machine.write(file["path"], text, int(file["permissions"], 8))
        for command in user_data["runcmd"]:
            await machine.must(*command)
        await lab.wait_ready(machine)
