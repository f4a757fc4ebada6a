"""Machines with a kernel of their own: qemu, on a disk that is made of an installation, on the bridge of a stage.

The disk has one snapshot, of the booted machine before any join, so a machine is there within seconds. Without KVM qemu
translates all code, which makes programs some 20 times slower: rows count and compare, and measure no times.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exclave.kit.host.command import run_command
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.expect import UnexpectedError, eventually
from exclave_sandbox.stage.namespaces import Machine
from vm.machine import LIMIT, AnyMachine

NAME, ADDRESS = "vm1", "10.77.0.21"
PROGRAM = "qemu-system-x86_64"
BOOTED = "booted"  # the snapshot of the disk
BOOT_TIME = 1200.0  # seconds, without KVM and on a busy host
END_TIME = 30.0  # seconds
KERNEL_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.show_status=no"


def has_kvm(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """True if the processor runs guests. Some hosts have /dev/kvm without that, which runs only adapted kernels."""
    flags = cpu.read_text().split()
    return Path("/dev/kvm").exists() and ("vmx" in flags or "svm" in flags)


def computer() -> list[str]:
    """What the machine is made of, as options of qemu. A snapshot fits only the computer on which it was made."""
    translated = ["-accel", "tcg,thread=multi", "-cpu", "max"]
    processor = ["-accel", "kvm", "-cpu", "host"] if has_kvm() else translated
    board = ["-machine", "q35", "-smp", "2", "-m", "768", "-nodefaults", "-display", "none"]
    return [*board, *processor, "-rtc", "base=utc,clock=host"]


@dataclass(frozen=True)
class Image:
    """What a machine starts from: a folder with disk.qcow2, vmlinuz, initrd and the private key for its SSH server."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk, with the snapshot."""
        return self.folder / "disk.qcow2"

    @property
    def key(self) -> Path:
        """The private key."""
        return self.folder / "key"


@dataclass
class GuestMachine(AnyMachine):
    """One machine, reached by SSH, which is never redirected. `folder` has its disk and its logs."""

    folder: Path
    image: Image
    switch: Machine
    started: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    session: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def disk(self) -> Path:
        """Its own copy of the image's disk."""
        return self.folder / "disk.qcow2"

    @property
    def log(self) -> Path:
        """What its console shows."""
        return self.folder / "console.log"

    def command(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        words = list(arguments)
        if options:
            words = ["systemd-run", "--pipe", "--wait", "--quiet", "--collect", *options, "--", *words]
        return ["ssh", *self._options(), f"root@{self.address}", shlex.join(words)]

    def _options(self) -> list[str]:
        pairs = {
            "ControlPath": f"{self.folder}/ssh",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
            "ConnectTimeout": "60",
        }
        return ["-i", str(self.image.key), *(word for key, value in pairs.items() for word in ("-o", f"{key}={value}"))]

    async def write(self, target: str, text: str, mode: int = 0o644) -> None:
        """Write a text file inside."""
        path = shlex.quote(target)
        script = f"mkdir -p $(dirname {path}); cat >{path}; chmod {mode:o} {path}"
        await self.must("sh", "-euc", script, stdin=text.encode())

    async def power_on(self, snapshot: str = "") -> None:
        """Start it: from the snapshot, or by booting."""
        kernel = [f"{self.image.folder}/vmlinuz", "-initrd", f"{self.image.folder}/initrd", "-append", KERNEL_LINE]
        link = "tap,id=uplink,ifname=tap-vm,script=no,downscript=no"
        command = [
            *(PROGRAM, *computer()),
            *("-serial", f"file:{self.log}", "-qmp", f"unix:{self.folder}/monitor,server=on,wait=off"),
            *("-kernel", *kernel, "-drive", f"file={self.disk},if=virtio,cache=unsafe"),
            *("-netdev", link, "-device", "virtio-net-pci,netdev=uplink"),
            *(("-loadvm", snapshot) if snapshot else ()),
        ]
        inside = ["nsenter", f"--net=/proc/{self.switch.pid}/ns/net", "--", "setpriv", "--pdeathsig=KILL"]
        with (self.folder / "qemu.log").open("ab") as output:
            self.started = subprocess.Popen(
                [*inside, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    async def wait_reachable(self) -> None:
        """Wait until its SSH server answers, and hold a session with it."""
        with trio.fail_after(BOOT_TIME):
            while True:
                if self.started is None or self.started.poll() is not None:
                    raise UnexpectedError(f"qemu has ended:\n{(self.folder / 'qemu.log').read_text()[-2000:]}")
                self._end_session()
                # One session for all programs: each of its own would cost a key exchange.
                words = ["ssh", "-N", "-o", "ControlMaster=yes", *self._options(), f"root@{self.address}"]
                self.session = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                while self.session.poll() is None:
                    if (self.folder / "ssh").exists():
                        return
                    await trio.sleep(0.1)
                await trio.sleep(0.5)

    async def wait_running(self) -> None:
        """Wait until systemd has started everything; failed units are no reason to wait longer."""
        with trio.fail_after(BOOT_TIME):
            while True:
                done = await self.run("systemctl", "is-system-running", "--wait", timeout=BOOT_TIME)
                if done.output.strip() in (b"running", b"degraded"):
                    return
                await trio.sleep(0.5)

    async def boot(self) -> None:
        """Start it by booting, and return when systemd has started everything."""
        await self.power_on()
        await self.wait_reachable()
        await self.wait_running()

    async def restore(self, snapshot: str = BOOTED) -> None:
        """Start it from a snapshot. Its clock has the time of the snapshot."""
        await self.power_on(snapshot)
        await self.wait_reachable()

    async def reboot(self) -> None:
        """Reboot it as its user would; return when it has booted."""
        before = await self.must("cat", "/proc/sys/kernel/random/boot_id")

        async def is_another() -> bool:
            await self.wait_reachable()
            done = await self.run("cat", "/proc/sys/kernel/random/boot_id", timeout=LIMIT)
            return done.status == 0 and done.output.decode() != before

        await self.run("systemctl", "--no-block", "reboot")
        with trio.fail_after(BOOT_TIME):
            await eventually("another boot", is_another, bool, 1.0)
        await self.wait_running()

    async def set_clock(self, seconds: float) -> None:
        """Set its system clock to `seconds` since the epoch, not its hardware clock."""
        await self.must("date", "--utc", f"--set=@{seconds:.3f}")

    async def monitor(self, line: str) -> str:
        """Run a command of qemu's monitor (`stop`, `cont`, `savevm NAME`, `loadvm NAME`); what it prints."""
        stream = await trio.open_unix_socket(str(self.folder / "monitor"))
        async with stream:
            commands = (
                {"execute": "qmp_capabilities"},
                {"execute": "human-monitor-command", "arguments": {"command-line": line}},
            )
            await stream.send_all("".join(f"{json.dumps(command)}\n" for command in commands).encode())
            text, answers = b"", [0]
            with trio.fail_after(LIMIT):
                while True:
                    text += await stream.receive_some()
                    answers = [json.loads(row) for row in text.splitlines(keepends=True) if row.endswith(b"\n")]
                    returned = [answer["return"] for answer in answers if "return" in answer]  # type: ignore[index,operator]
                    if len(returned) == 2:
                        return str(returned[1])

    async def save(self, snapshot: str) -> None:
        """Make a snapshot of memory and disk under this name, without a session of SSH in it."""
        self._end_session()
        if problem := await self.monitor(f"savevm {snapshot}"):
            raise UnexpectedError(f"savevm: {problem}")

    async def load(self, snapshot: str) -> None:
        """Go back to a snapshot while it runs. Its clock has the time of the snapshot."""
        self._end_session()
        if problem := await self.monitor(f"loadvm {snapshot}"):
            raise UnexpectedError(f"loadvm: {problem}")
        await self.wait_reachable()

    def _end_session(self) -> None:
        if self.session is not None:
            self.session.kill()
            self.session.wait()
            self.session = None
        (self.folder / "ssh").unlink(missing_ok=True)

    async def cut_power(self) -> None:
        """End it at once."""
        self._end_session()
        if self.started is not None:
            self.started.kill()
            with trio.fail_after(END_TIME):
                await trio.to_thread.run_sync(self.started.wait, abandon_on_cancel=True)
            self.started = None


@asynccontextmanager
async def open_guest(image: Image, folder: Path, switch: Machine) -> AsyncIterator[GuestMachine]:
    """A machine that is off, with a disk of its own. It ends with the block.

    `switch`: the machine that has the bridge. If the block fails, its journal is printed.
    """
    folder.mkdir(parents=True)
    guest = GuestMachine(NAME, ADDRESS, folder, image, switch)
    await run_command(["cp", "--reflink=auto", "--sparse=always", str(image.disk), str(guest.disk)], timeout=LIMIT)
    inside = ["nsenter", f"--net=/proc/{switch.pid}/ns/net", "--", "sh", "-euc"]
    tap = "ip tuntap add tap-vm mode tap; ip link set tap-vm master bridge up"
    subprocess.run([*inside, tap], check=True)
    try:
        yield guest
    except BaseException:
        with shielded(2 * LIMIT):
            await _print_journal(guest)
        raise
    finally:
        with shielded(2 * END_TIME):
            await guest.cut_power()


async def _print_journal(guest: GuestMachine) -> None:
    if guest.session is not None and guest.session.poll() is None:
        for command in (("exclave", "status"), ("journalctl", "--no-pager", "--lines=150")):
            with suppress(trio.TooSlowError):
                done = await guest.run(*command)
                sys.stderr.write(f"== {' '.join(command)}\n{done.output.decode(errors='replace')}\n")
    if guest.log.exists():
        sys.stderr.write(guest.log.read_text(errors="replace")[-2000:])
