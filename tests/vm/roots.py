"""Root file systems of the machines, made once into a cache of this user.

Each Debian has two layers: a minimal system that boots, and apt's lists with the archives of everything that the rows
install. So `apt install ./exclave.deb` works in a machine without a network. A layer is named after what it is made of.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

IS_PART = os.environ.get("EXCLAVE_VM_PART") == "1"
"""True for the rows that every run of ./tests/run has: one Debian, and nothing beside exclave."""

DEBIANS = ("bookworm",) if IS_PART else ("bookworm", "trixie")
SYSTEM = ("systemd", "systemd-sysv", "dbus", "iproute2", "procps", "ca-certificates")
"""What every cloud image has beyond Debian's minimal system."""

ALSO = () if IS_PART else ("firewalld", "docker.io", "libfaketime")
"""What some rows install beside exclave."""

REACHABLE = ("openssh-server", "python3-apt")
"""What a control host with Ansible needs on a machine."""

SERVICES = ("systemd-networkd.service", "systemd-networkd-wait-online.service")

_DOWNLOAD = """
set -eu
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
mount -t proc proc "$4/proc"
cat /etc/resolv.conf >"$4/etc/resolv.conf"
cp "$5" "$4/exclave.deb"
cd /
target=$4
shift 5
export DEBIAN_FRONTEND=noninteractive
chroot "$target" apt-get -qq update
chroot "$target" apt-get -qq install --download-only ./exclave.deb "$@"
rm "$target/exclave.deb" "$target/etc/resolv.conf"
"""


_REACHABLE = """
set -eu
mount -t overlay overlay -o "lowerdir=$1:$2,upperdir=$3,workdir=$4" "$5"
mount -t proc proc "$5/proc"
cat /etc/resolv.conf >"$5/etc/resolv.conf"
target=$5
shift 5
export DEBIAN_FRONTEND=noninteractive
mkdir -p "$target/archives/partial"  # not apt's own folder: the layer below has what exclave needs there
chroot "$target" apt-get -qq install --no-install-recommends -o Dir::Cache::archives=/archives "$@" >/dev/null
rm -rf "$target/archives" "$target/etc/resolv.conf"
"""


@dataclass(frozen=True)
class Layers:
    """The folders that make one Debian's root, the lowest last."""

    archives: Path
    system: Path

    def missing(self) -> list[Path]:
        """Those that have not been made here."""
        return [folder for folder in (self.archives, self.system) if not folder.is_dir()]


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the layers: `$EXCLAVE_VM`, or ~/.cache/exclave/vm."""
    named = environment.get("EXCLAVE_VM")
    return Path(named) if named else Path.home() / ".cache/exclave/vm"


def layers_of(debian: str, package: Path, cache: Path) -> Layers:
    """Where the layers are for a .deb of exclave, made or not."""
    command = ["dpkg-deb", "--field", str(package), "Pre-Depends", "Depends", "Recommends"]
    needed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    system = _digest(debian, *SYSTEM, *SERVICES)
    return Layers(
        cache / f"{debian}-archives-{_digest(system, needed, *ALSO, _DOWNLOAD)}", cache / f"{debian}-{system}"
    )


def arm64_root(package: Path, cache: Path) -> Path:
    """Where the files of Debian 12's packages for arm64 are, made or not: those that a .deb of exclave needs."""
    return cache / f"bookworm-arm64-{_digest(*_needed(package))}"


def make_arm64_root(package: Path, cache: Path) -> None:
    """Make it if it is missing. Needs mmdebstrap and Debian's mirror; nothing of arm64 runs."""
    if not arm64_root(package, cache).is_dir():
        print("downloading what exclave needs on Debian 12 for arm64", flush=True)
        make_folder(arm64_root(package, cache), lambda folder: _extract_arm64(folder, _needed(package)))


def _extract_arm64(folder: Path, names: list[str]) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64", f"--include={','.join(names)}"]
    subprocess.run([*command, "bookworm", str(folder)], check=True)
    # Compiled files are alike on all architectures. Under qemu, Python would need half a minute for them.
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(folder / "usr/lib")], stdout=subprocess.DEVNULL)


def _needed(package: Path) -> list[str]:
    """The packages that a .deb needs, and the first ones of alternatives."""
    listed = subprocess.run(["dpkg-deb", "--field", package, "Depends"], check=True, capture_output=True, text=True)
    return [one.split()[0] for one in listed.stdout.split(",")]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def make_layers(debian: str, package: Path, cache: Path) -> Layers:
    """Make what is missing of them. Needs root, mmdebstrap and Debian's mirror."""
    layers = layers_of(debian, package, cache)
    cache.mkdir(parents=True, exist_ok=True)
    if not layers.system.is_dir():
        print(f"making a root of Debian {debian}, which takes half a minute", flush=True)
        make_folder(layers.system, lambda folder: _make_system(debian, folder))
    if not layers.archives.is_dir():
        print(f"downloading what exclave needs on Debian {debian}", flush=True)
        make_folder(layers.archives, lambda folder: _download(layers.system, package, folder))
    return layers


def reachable_layer(layers: Layers, cache: Path) -> Path:
    """Where the layer above these is, made or not, by which a control host reaches the machine."""
    debian = layers.system.name.partition("-")[0]
    return cache / f"{debian}-ssh-{_digest(layers.archives.name, *REACHABLE, _REACHABLE)}"


def make_reachable_layer(layers: Layers, cache: Path) -> None:
    """Make it if it is missing. Needs root and Debian's mirror."""
    target = reachable_layer(layers, cache)
    if not target.is_dir():
        print(f"installing what Ansible needs into a root: {' '.join(REACHABLE)}", flush=True)
        make_folder(target, lambda folder: _stack(_REACHABLE, [layers.archives, layers.system], folder, *REACHABLE))


def make_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is there only when it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as work:
        folder = Path(work) / "layer"
        folder.mkdir(mode=0o755)
        fill(folder)
        folder.rename(target)


def _make_system(debian: str, folder: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(SYSTEM)}"]
    subprocess.run([*command, debian, str(folder)], check=True)
    subprocess.run(["systemctl", f"--root={folder}", "--quiet", "enable", *SERVICES], check=True)
    for name in ("etc/resolv.conf", "etc/hostname"):
        (folder / name).unlink(missing_ok=True)


def _download(system: Path, package: Path, folder: Path) -> None:
    _stack(_DOWNLOAD, [system], folder, str(package), *ALSO)


def _stack(script: str, lower: list[Path], folder: Path, *arguments: str) -> None:
    """Run a script on a root of `lower` and `folder`, which gets what changes."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        work, merged = Path(scratch) / "work", Path(scratch) / "merged"
        work.mkdir()
        merged.mkdir()
        words = [*map(str, (*lower, folder, work, merged)), *arguments]
        # In a mount namespace of its own, which takes the mounts with it.
        subprocess.run(["unshare", "--mount", "sh", "-c", script, "stack", *words], check=True)
        shutil.rmtree(work)
