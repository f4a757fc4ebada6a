"""What only a kernel of its own shows: that it loads its modules for the agent, AppArmor, and what a unit uses."""

import pytest
import trio

from exclave_sandbox.expect import eventually
from support.figures import add_figure
from vm.image import Guest
from vm.qemu import BOOT_TIME, GuestMachine

pytestmark = [pytest.mark.vm, pytest.mark.qemu, pytest.mark.timeout(3600)]

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
