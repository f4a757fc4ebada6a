"""What only a kernel of its own shows: modules, AppArmor, the private link, limits of memory and tasks, a reboot."""

import json

import pytest
import trio

from exclave.link.layout import LINK
from exclave_sandbox.expect import eventually
from support.figures import add_figure
from vm.image import Guest
from vm.qemu import BOOT_TIME, GuestMachine

pytestmark = [pytest.mark.vm, pytest.mark.qemu, pytest.mark.timeout(3600)]

PATIENCE = 600.0  # seconds, on a machine that translates all code

RULES = {"nf_tables", "nf_conntrack", "nf_nat", "nft_chain_nat"}
"""Modules of Debian's kernel that the rules need. The kernel loads them when nft asks for what they have."""


async def modules_of(machine: GuestMachine) -> set[str]:
    """The kernel's modules that are loaded."""
    return {line.split()[0] for line in (await machine.must("cat", "/proc/modules")).splitlines()}


async def denials_of(machine: GuestMachine) -> list[str]:
    """What AppArmor has denied, by the kernel's log."""
    log = await machine.must("journalctl", "--dmesg", "--no-pager", "--quiet")
    return [line for line in log.splitlines() if "DENIED" in line]


async def is_active(machine: GuestMachine) -> bool:
    """True if the agent has started."""
    return (await machine.properties("exclave.service", "ActiveState"))["ActiveState"] == "active"


async def test_an_idle_agent_on_an_untouched_kernel(guest: Guest) -> None:
    async with guest.open_lab() as (_, machine):
        assert (await machine.must("cat", "/sys/module/apparmor/parameters/enabled")).strip() == "Y"
        # On a slow machine, loading modules may outlast the first nft; then systemd starts the agent again.
        with trio.fail_after(BOOT_TIME):
            await eventually("an active agent", lambda: is_active(machine), bool, 1.0)
        # Its check of the host passes, although it may not load modules itself (ProtectKernelModules).
        found = await machine.properties("exclave.service", "MemoryCurrent", "ProtectKernelModules")
        assert found["ProtectKernelModules"] == "yes"
        modules = await modules_of(machine)
        assert modules >= RULES
        assert "dummy" not in modules
        assert "exclave" not in await machine.must("nft", "list", "tables")
        assert await denials_of(machine) == []
        used = int(found["MemoryCurrent"])
        assert 10 << 20 < used < 300 << 20
        add_figure(f"a kernel of its own: MemoryCurrent of an idle agent: {used >> 20} MiB")
        await machine.reboot()
        with trio.fail_after(BOOT_TIME):
            await eventually("an active agent", lambda: is_active(machine), bool, 1.0)
        assert "exclave" not in await machine.must("nft", "list", "tables")
        assert await machine.must("systemctl", "--failed", "--plain", "--no-legend", "list-units", "exclave*") == ""


MAKE_LINK = """\
import sys
sys.path.insert(0, "/usr/lib/exclave")
import trio
from exclave.ending import EndingSwitch
from exclave.link.link import open_link

async def main():
    async with open_link(EndingSwitch()) as link:
        print(link.device)

trio.run(main)
"""
"""Makes the private link as the agent does, and leaves it there."""

AGENT = ("CapabilityBoundingSet=CAP_NET_ADMIN", "ProtectKernelModules=yes", "NoNewPrivileges=yes")
"""What confines the agent's unit, as far as links are concerned."""


async def test_the_private_link_is_a_dummy(guest: Guest) -> None:
    async with guest.open_lab() as (_, machine):
        assert "dummy" not in await modules_of(machine)
        properties = [f"--property={one}" for one in AGENT]
        words = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect", *properties)
        device = await machine.must(*words, "/usr/bin/python3", "-IB", "-c", MAKE_LINK, timeout=PATIENCE)
        assert device == f"{LINK}\n"
        assert "dummy" in await modules_of(machine)
        listed = json.loads(await machine.must("ip", "-json", "-details", "address", "show", "dev", LINK))
        [found] = [link for link in listed if link]
        assert found["linkinfo"]["info_kind"] == "dummy"
        assert {address["family"] for address in found["addr_info"]} == {"inet", "inet6"}
        await machine.must("systemctl", "stop", "exclave", timeout=PATIENCE)
        await machine.must("exclave", "cleanup", timeout=PATIENCE)
        assert LINK not in await machine.must("ip", "-brief", "link")


UNIT = "exclave-proxy@a.service"

START = """\
mkdir -p /run/exclave/proxy-etc
printf 'EXCLAVE_PROXY=/opt/proxy\n' >/run/exclave/proxy-a.env
systemctl start exclave-proxy@a.service
"""

WAITING = "#!/bin/sh\nexec sleep infinity\n"
GROWING = "#!/bin/sh\nexec tail /dev/zero\n"
"""Programs in place of the proxy. The second one needs more and more memory: its input has no end and no lines."""

ENDED_BY_KERNEL = f"until journalctl -k --quiet | grep -q 'CONSTRAINT_MEMCG.*{UNIT}'; do sleep 1; done"


async def test_the_kernel_enforces_the_limits_of_a_proxy_s_unit(guest: Guest) -> None:
    async with guest.open_lab() as (_, machine):
        with trio.fail_after(BOOT_TIME):
            await eventually("an active agent", lambda: is_active(machine), bool, 1.0)
        agent = await machine.properties("exclave.service", "MainPID")
        await machine.write("/opt/proxy", WAITING, 0o755)
        await machine.shell(START, PATIENCE)
        found = await machine.properties(UNIT, "ControlGroup", "MemoryMax", "TasksMax", "MemoryCurrent")
        folder = f"/sys/fs/cgroup{found['ControlGroup']}"
        limits = await machine.must("cat", f"{folder}/memory.max", f"{folder}/pids.max")
        assert limits.split() == [found["MemoryMax"], found["TasksMax"]] == [str(1536 << 20), "512"]
        assert int(found["MemoryCurrent"]) > 0
        await machine.must("systemctl", "stop", UNIT, timeout=PATIENCE)
        # The machine has less memory than the limit.
        await machine.must("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=64M", timeout=PATIENCE)
        await machine.write("/opt/proxy", GROWING, 0o755)
        await machine.shell(START, PATIENCE)
        await machine.shell(ENDED_BY_KERNEL, PATIENCE)

        async def ended() -> dict[str, str]:
            return await machine.properties(UNIT, "ActiveState", "Result")

        with trio.fail_after(PATIENCE):
            await eventually("a failed unit", ended, lambda one: one == {"ActiveState": "failed", "Result": "oom-kill"})
        assert await machine.properties("exclave.service", "MainPID") == agent
        assert await is_active(machine)
