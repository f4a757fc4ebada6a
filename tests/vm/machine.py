"""Machines that boot: systemd-nspawn on a root of layers, connected to the bridge of a stage.

Rules: the host has no systemd to register them with, so commands inside run by `systemd-run` in the machine's own
namespaces. A power cut is SIGKILL for the machine's process 1. Nothing here sets a clock: it would be the host's.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from exclave.kit.host.command import Finished, run_command
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.expect import UnexpectedError
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine

UPLINK = "host0"  # the name that systemd-nspawn gives to the machine's link
REBOOT = 133  # systemd-nspawn ends with it when the machine asks for a reboot
LIMIT = 300.0  # seconds for whatever a machine does, on a very busy host
END_TIME = 60.0  # seconds
CGROUPS = Path("/sys/fs/cgroup/unified")  # the host's; version 2 alone is at /sys/fs/cgroup

_NETWORK = """\
[Match]
Name={link}

[Network]
Address={address}/24
LinkLocalAddressing=no
{routes}"""


def network_file(link: str, address: str) -> str:
    """The file for systemd-networkd that gives a machine's link its address and routes."""
    routes = "".join(f"\n[Route]\nDestination={network}\nScope=link\n" for network in mesh.CLUSTER_NETWORKS)
    return _NETWORK.format(link=link, address=address, routes=routes)


# Its own cgroup: those that share one would be counted and ended together.
_START = """
mkdir -p "$1" && echo $$ >"$1/cgroup.procs"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
shift
exec setpriv --pdeathsig=KILL "$@"
"""


@dataclass
class AnyMachine(ABC):
    """A machine on the bridge of a stage, whatever makes it: programs run inside by `command`."""

    name: str
    address: str

    @abstractmethod
    def command(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """The argument list that runs `arguments` inside, with options of systemd-run."""

    async def run(self, *arguments: str, stdin: bytes = b"", timeout: float = LIMIT) -> Finished:
        """Run a program inside to its end."""
        return await run_command(self.command(*arguments), stdin=stdin, timeout=timeout)

    async def must(self, *arguments: str, stdin: bytes = b"", timeout: float = LIMIT) -> str:
        """Run a program that must succeed; its output. Raises UnexpectedError."""
        done = await self.run(*arguments, stdin=stdin, timeout=timeout)
        if done.status != 0:
            output = done.output.decode(errors="replace")
            raise UnexpectedError(f"{self.name}: {' '.join(arguments)}: status {done.status}\n{output}{done.errors}")
        return done.output.decode()

    async def shell(self, text: str, timeout: float = LIMIT) -> str:
        """Run a line of shell that must succeed; its output. Raises UnexpectedError."""
        return await self.must("sh", "-euc", text, timeout=timeout)

    async def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit, as systemd has them."""
        shown = await self.must("systemctl", "show", f"--property={','.join(names)}", unit)
        return dict(line.split("=", 1) for line in shown.splitlines())

    async def journal(self, *options: str) -> str:
        """Its journal."""
        return await self.must("journalctl", "--merge", "--no-pager", "--quiet", *options)


@dataclass
class BootedMachine(AnyMachine):
    """One machine. `folder` has its own layer, its log and where its root is mounted."""

    folder: Path
    switch: Machine
    cgroup: Path
    """Its control group on the host."""
    booted: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    leader: int = 0

    @property
    def root(self) -> Path:
        """Its root as the host sees it."""
        return self.folder / "root"

    @property
    def log(self) -> Path:
        """What its console shows."""
        return self.folder / "console.log"

    async def boot(self) -> None:
        """Start it, and return when systemd has started everything. Raises UnexpectedError."""
        await self.power_on()
        await self.wait_running()

    async def power_on(self) -> None:
        """Start it, and return when its process 1 runs systemd."""
        await self._remove_link()
        command = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.name}"),
            *("--register=no", "--keep-unit", "--console=read-only", "--link-journal=no"),
            "--network-bridge=bridge",
        ]
        inside = ["nsenter", f"--net=/proc/{self.switch.pid}/ns/net", "--"]
        with self.log.open("ab") as output:
            self.booted = subprocess.Popen(
                [*inside, "sh", "-euc", _START, "start", str(self.cgroup), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with trio.fail_after(LIMIT):
            while not (leader := _process_1(self.booted.pid)):
                if self.booted.poll() is not None:
                    raise UnexpectedError(f"{self.name} does not boot:\n{self.log.read_text(errors='replace')[-3000:]}")
                await trio.sleep(0.05)
        self.leader = leader

    async def wait_running(self) -> None:
        """Wait until systemd has started everything; failed units are no reason to wait longer."""
        with trio.fail_after(LIMIT):
            while True:
                done = await self.enter("systemctl", "is-system-running", "--wait", timeout=LIMIT)
                if done.output.strip() in (b"running", b"degraded"):
                    return
                await trio.sleep(0.05)

    async def enter(self, *arguments: str, stdin: bytes = b"", timeout: float = LIMIT) -> Finished:
        """Run a program in its namespaces, outside of any unit of it."""
        command = ["nsenter", f"--target={self.leader}", "--all", "--", *arguments]
        return await run_command(command, stdin=stdin, timeout=timeout)

    def command(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        words = [word.replace("$", "$$") for word in arguments]  # systemd-run would expand it as a variable
        unit = ["systemd-run", "--pipe", "--wait", "--quiet", "--collect", *options, "--", *words]
        return ["nsenter", f"--target={self.leader}", "--all", "--", *unit]

    def copy(self, source: Path, target: str, mode: int = 0o644) -> None:
        """Write a file or a folder into its root."""
        path = self.root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, path)
            path.chmod(mode)

    def write(self, target: str, text: str, mode: int = 0o644) -> None:
        """Write a text file into its root."""
        path = self.root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def freeze(self) -> None:
        """Pause everything in it."""
        (self.cgroup / "cgroup.freeze").write_text("1")

    def thaw(self) -> None:
        """End the pause."""
        (self.cgroup / "cgroup.freeze").write_text("0")

    async def reboot(self) -> None:
        """Reboot it as its user would; return when it has booted."""
        await self.enter("systemctl", "--no-block", "reboot")
        status = await self._wait_ended(END_TIME * 3)
        if status != REBOOT:
            raise UnexpectedError(f"{self.name}: systemd-nspawn ended with {status}, not with {REBOOT}")
        await self.boot()

    async def power_off(self) -> None:
        """Shut it down in order."""
        await self.enter("systemctl", "--no-block", "poweroff")
        await self._wait_ended(END_TIME * 3)

    async def cut_power(self) -> None:
        """End everything in it at once."""
        if self.booted is not None and self.booted.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader or self.booted.pid, signal.SIGKILL)
            await self._wait_ended(END_TIME)
        await self._remove_link()

    async def _wait_ended(self, limit: float) -> int:
        assert self.booted is not None
        with trio.fail_after(limit):
            return await trio.to_thread.run_sync(self.booted.wait, abandon_on_cancel=True)

    async def _remove_link(self) -> None:
        """A link that a power cut left: with it the next boot would fail."""
        await self.switch.run("ip", "link", "delete", f"vb-{self.name}"[:15])


def _process_1(pid: int) -> int:
    """The machine's process 1 when it runs systemd, below systemd-nspawn; else 0."""
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
        for child in psutil.Process(pid).children():
            if child.name() == "systemd":
                return child.pid
    return 0


@asynccontextmanager
async def open_machine(
    name: str, address: str, layers: Sequence[Path], folder: Path, switch: Machine
) -> AsyncIterator[BootedMachine]:
    """A machine that is off, with a layer of its own above `layers` (the lowest last). It ends with the block.

    `switch`: the machine that has the bridge. If the block fails, its journal is printed.
    """
    cgroups = CGROUPS if CGROUPS.is_dir() else CGROUPS.parent
    machine = BootedMachine(name, address, folder, switch, cgroups / f"exclave-{uuid.uuid4().hex[:12]}-{name}")
    for part in ("layer", "work", "root"):
        (folder / part).mkdir(parents=True)
    lower = ":".join(map(str, layers))
    options = f"lowerdir={lower},upperdir={folder}/layer,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(machine.root)], check=True)
    machine.write("/etc/hostname", f"{name}\n")
    machine.write("/etc/resolv.conf", f"nameserver {mesh.CONTROL_PLANE}\n")
    machine.write("/etc/systemd/network/10-host0.network", network_file(UPLINK, address))
    try:
        yield machine
    except BaseException:
        with shielded(END_TIME):
            await _print_journal(machine)
        raise
    finally:
        with shielded(3 * END_TIME):
            await machine.cut_power()
        subprocess.run(["umount", "--lazy", str(machine.root)], check=True)
        _remove_cgroup(machine.cgroup)


def _remove_cgroup(cgroup: Path) -> None:
    """Remove an empty control group with those below it."""
    with contextlib.suppress(OSError):  # a process may not be gone yet; a control group that stays does no harm
        for folder, _, _ in os.walk(cgroup, topdown=False):
            os.rmdir(folder)


async def _print_journal(machine: BootedMachine) -> None:
    if machine.leader and machine.booted is not None and machine.booted.poll() is None:
        for command in (
            ("systemctl", "--failed", "--no-pager"),
            ("systemctl", "status", "--no-pager", "--full", "exclave*"),
            ("journalctl", "--merge", "--no-pager", "--lines=120"),
        ):
            done = await machine.enter(*command)
            sys.stderr.write(f"== {machine.name}: {' '.join(command)}\n{done.output.decode(errors='replace')}\n")
    sys.stderr.write(machine.log.read_text(errors="replace")[-2000:])
