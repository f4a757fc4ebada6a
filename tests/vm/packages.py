"""Builds what booted machines install, and makes their roots: `python -m vm.packages FOLDER`.

FOLDER gets new.deb, the package of this checkout, old.deb, the same code with a lower version, and bad.deb with a
higher one, whose agent does not start. For all rows, `release` in it is a release of this checkout.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from exclave import __version__
from support.release import make_checkout, make_key, open_keyring, release
from vm.image import make_kernel_root
from vm.qemu import PROGRAM
from vm.roots import DEBIANS, IS_PART, cache_folder, make_arm64_root, make_layers, make_reachable_layer

TOP = Path(__file__).resolve().parents[2]
OLD, BAD = "0.0.1", "9.9.9"
VERSION_FILE = "usr/lib/exclave/exclave/__init__.py"
AGENT_FILE = "usr/lib/exclave/exclave/daemon/process.py"  # which the agent imports, and no other command but reload


def build(folder: Path) -> None:
    """Build both packages."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([str(TOP / "packaging/build"), made, "deb"], check=True, stdout=subprocess.DEVNULL)
        [new] = Path(made).glob("exclave_*.deb")
        shutil.copyfile(new, folder / "new.deb")
    write_variant(folder / "new.deb", folder / "old.deb", OLD)
    write_variant(folder / "new.deb", folder / "bad.deb", BAD, 'raise SystemExit("this version does not start")\n')


def write_variant(new: Path, target: Path, version: str, agent: str = "") -> None:
    """The same package with another version, also in its code. `agent`: the text of AGENT_FILE in place of its own."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", str(new), str(tree)], check=True)
        for file, start in (("DEBIAN/control", "Version: "), (VERSION_FILE, "__version__ = ")):
            path = tree / file
            text = f'"{version}"' if "=" in start else version
            lines = [start + text if line.startswith(start) else line for line in path.read_text().splitlines()]
            path.write_text("\n".join(lines) + "\n")
        if agent:
            (tree / AGENT_FILE).write_text(agent)
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", str(tree), str(target)],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip


def build_release(folder: Path) -> None:
    """Build a release, signed with a key that is thrown away, or print why there is none."""
    with tempfile.TemporaryDirectory(prefix="gpg") as work, open_keyring(Path(work) / "home") as home:
        checkout, key = make_checkout(Path(work) / "checkout"), make_key(home, "a release")
        made = release(checkout, home, __version__, folder, "--key", key, "--without-image")
    if made.returncode != 0:
        print(f"no release: {made.stderr.strip()}")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    build(target)
    if not IS_PART:
        build_release(target / "release")
        make_arm64_root(target / "new.deb", cache_folder())
    for debian in DEBIANS:
        layers = make_layers(debian, target / "new.deb", cache_folder())
        if not IS_PART:
            make_reachable_layer(layers, cache_folder())
    if not IS_PART and shutil.which(PROGRAM) is None:
        print(f"no machine with a kernel of its own: {PROGRAM} is missing (qemu-system-x86, qemu-utils)")
    elif not IS_PART:
        make_kernel_root(cache_folder())
