"""The disk of a machine with a kernel of its own: Debian's cloud kernel, with exclave installed, and booted once.

It is in the cache of this user, named after what it is made of, and only the newest one stays there.
"""

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import exclave_sandbox
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import open_network
from exclave_sandbox.stage.stage import CLUSTER
from vm.lab import APPLICATION, CONFIG, HERE, STAND_IN, Installed, Lab, Packages, install, open_lab
from vm.machine import network_file
from vm.qemu import ADDRESS, BOOTED, KERNEL_LINE, NAME, GuestMachine, Image, computer, has_kvm, open_guest
from vm.roots import SERVICES, SYSTEM, Layers, cache_folder, make_folder

DEBIAN = "bookworm"
KERNEL = ("linux-image-cloud-amd64", "initramfs-tools", "kmod", "openssh-server", "apparmor")
SIZE = "3G"

_INITRD = " && ".join(  # a small one: without KVM, unpacking a whole one takes long
    (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"',
        'echo MODULES=list >"$1/etc/initramfs-tools/conf.d/guest"',
        "printf '%s\\n' virtio_pci virtio_blk ext4 >\"$1/usr/share/initramfs-tools/modules.d/guest\"",
    )
)

_SLOW = "[Service]\nTimeoutStartSec=30min\nWatchdogSec=0\n"
"""For the agent's unit, where all code is translated: systemd must not take slow for stuck."""

_CLEAN = "rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists; python3 -m compileall -q /opt/sandbox"


def kernel_root(cache: Path) -> Path:
    """Where the root with a kernel is, made or not."""
    parts = "\n".join((DEBIAN, *SYSTEM, *KERNEL, *SERVICES, _INITRD))
    return cache / f"{DEBIAN}-kernel-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def make_kernel_root(cache: Path) -> None:
    """Make it if it is missing. Needs root, mmdebstrap and Debian's mirror."""
    target = kernel_root(cache)
    if not target.is_dir():
        print(f"making a root of Debian {DEBIAN} with a kernel, which takes some minutes", flush=True)
        make_folder(target, _make_kernel_root)


def _make_kernel_root(folder: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join((*SYSTEM, *KERNEL))}"]
    subprocess.run([*command, f"--setup-hook={_INITRD}", DEBIAN, str(folder)], check=True)
    subprocess.run(["systemctl", f"--root={folder}", "--quiet", "enable", *SERVICES], check=True)
    for name in ("etc/resolv.conf", "etc/hostname"):
        (folder / name).unlink(missing_ok=True)


def _digest(packages: Packages, cache: Path) -> str:
    found = hashlib.sha256(str(kernel_root(cache)).encode())
    sandbox = Path(exclave_sandbox.__file__ or "").parent
    files = sorted(path for path in sandbox.rglob("*") if path.suffix in (".py", ".yaml"))
    for path in (packages.new, *files, HERE / "inside/echo.py"):
        found.update(path.read_bytes())
    for text in (
        APPLICATION,
        STAND_IN,
        CONFIG,
        network_file("eth0", ADDRESS),
        _SLOW,
        _CLEAN,
        SIZE,
        *computer(),
        KERNEL_LINE,
    ):
        found.update(f"{text}\n".encode())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Guest:
    """The image, and the installation that it is made of."""

    image: Image
    installed: Installed

    @asynccontextmanager
    async def open_lab(self, lifetime: str = "24h") -> AsyncIterator[tuple[Lab, GuestMachine]]:
        """A stage, and a machine that has booted and has the right time; `lifetime`: of certificates."""
        async with open_lab(self.installed, lifetime) as lab:
            folder = lab.stage.scratch / NAME
            async with open_guest(self.image, folder, lab.stage.network.switch) as machine:
                await machine.restore()
                await machine.set_clock(time.time())
                yield lab, machine


async def make_guest(packages: Packages, archives: Path, scratch: Path) -> Guest:
    """The image from the cache, or made; `archives`: the layer with apt's archives."""
    cache = cache_folder()
    target = cache / f"guest-{_digest(packages, cache)}"
    layers = Layers(archives, kernel_root(cache))
    if target.is_dir():
        return Guest(Image(target), Installed(DEBIAN, layers, packages, []))
    for older in cache.glob("guest-*"):
        shutil.rmtree(older)
    installed = await install(DEBIAN, layers, packages, scratch / "installed")
    with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as work:
        folder = Path(work) / "image"
        folder.mkdir()
        _make_disk(installed, folder, Path(work))
        await _boot_once(Image(folder), scratch)
        folder.rename(target)
    return Guest(Image(target), installed)


def _make_disk(installed: Installed, folder: Path, work: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    disk = work / "disk.raw"
    with _merged(installed.layers, work) as root:
        for name, text in {
            "etc/hostname": f"{NAME}\n",
            "etc/resolv.conf": f"nameserver {mesh.CONTROL_PLANE}\n",
            "etc/systemd/network/10-uplink.network": network_file("eth0", ADDRESS),
            "root/.ssh/authorized_keys": (folder / "key.pub").read_text(),
            **({} if has_kvm() else {"etc/systemd/system/exclave.service.d/slow.conf": _SLOW}),
        }.items():
            path = root / name
            path.unlink(missing_ok=True)
            path.parent.mkdir(mode=0o700 if path.parent.name == ".ssh" else 0o755, parents=True, exist_ok=True)
            path.write_text(text)
        (root / "etc/systemd/network/10-host0.network").unlink(missing_ok=True)
        subprocess.run(["chroot", str(root), "sh", "-euc", _CLEAN], check=True)
        for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            [found] = (root / "boot").glob(pattern)
            shutil.copyfile(found, folder / name)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), SIZE], check=True)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(Image(folder).disk)]
    subprocess.run(convert, check=True)


@contextmanager
def _merged(layers: list[Path], work: Path) -> Iterator[Path]:
    """The layers as one tree, with changes in `work`."""
    upper, changes, root = (work / name for name in ("upper", "changes", "root"))
    for folder in (upper, changes, root):
        folder.mkdir()
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={changes}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


async def _boot_once(image: Image, scratch: Path) -> None:
    """Boot it, and make the snapshot."""
    async with open_network() as network:
        await network.join(f"{CLUSTER}/24")
        async with open_guest(image, scratch / "first", network.switch) as guest:
            await guest.boot()
            await guest.save(BOOTED)
            await guest.cut_power()
            shutil.move(guest.disk, image.disk)
