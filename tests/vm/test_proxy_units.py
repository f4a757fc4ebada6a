"""The proxies as units: what systemd does with them, and that they outlive whatever happens to the agent's unit."""

import json
from pathlib import Path

import pytest
import trio

from exclave_sandbox.expect import eventually
from vm.lab import Installed, open_lab, status_of
from vm.machine import LIMIT, BootedMachine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

PROCESS_TESTS = Path(__file__).parents[1] / "proxy/process"

# With the agent's own rights. Its unit is loaded, so a proxy's unit that has ended is not forgotten.
LIFE = """\
mkdir -p /run/exclave /opt/life
systemd-run --quiet --pipe --wait --collect --setenv=PYTHONPATH=/usr/lib/exclave \
    --property="CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE" --property=NoNewPrivileges=yes \
    --property=ProtectSystem=strict --property="ReadWritePaths=/run/exclave /opt/life" \
    /usr/bin/python3 -B /opt/unit_life.py /run/exclave /opt/life
"""


async def test_the_life_of_units_is_as_the_other_tests_expect(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        machine.copy(PROCESS_TESTS / "programs/unit_life.py", "/opt/unit_life.py")
        await machine.boot()
        printed = await machine.shell(LIFE)
        expected = (PROCESS_TESTS / "golden/unit_life.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in printed.splitlines()] == [json.loads(line) for line in expected]


async def main_pid(machine: BootedMachine, unit: str) -> int:
    return int((await machine.properties(unit, "MainPID"))["MainPID"])


async def test_a_proxy_outlives_its_agent_s_unit_and_ends_with_a_stop(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await lab.join(machine)
        await lab.wait_ready(machine)
        checks = await machine.shell("journalctl --output=cat --unit=exclave-proxy@check.service")
        assert checks.count("INFO linkerd2_proxy: ") == 1
        assert "Failed" not in checks
        active = (await status_of(machine))["proxy"]["active"]
        unit = f"exclave-proxy@{active}.service"
        proxy, agent = await main_pid(machine, unit), await main_pid(machine, "exclave.service")
        for command in ("systemctl kill --signal=KILL exclave", "systemctl restart exclave"):
            await machine.shell(command)
            with trio.fail_after(LIMIT):
                await eventually(
                    "another agent",
                    lambda: main_pid(machine, "exclave.service"),
                    lambda pid, former=agent: pid not in (0, former),
                    0.1,
                )
            await lab.wait_ready(machine)
            agent = await main_pid(machine, "exclave.service")
            found = (await status_of(machine))["proxy"]
            assert (found["active"], found["instances"][active]["pid"]) == (active, proxy), command
            assert await main_pid(machine, unit) == proxy
        await machine.shell("systemctl stop exclave")
        assert (await machine.properties(unit, "ActiveState"))["ActiveState"] == "inactive"
        assert await machine.shell("nft list tables | grep exclave || true") == ""
        await machine.shell("exclave leave")
        left = await machine.shell("ls /run/exclave; systemctl list-units --all --plain --no-legend --state=failed")
        assert [name for name in left.split() if name.startswith(("proxy", "exclave"))] == []
