"""Builds what booted machines install, and makes their roots: `python -m vm.packages FOLDER`.

FOLDER gets new.deb, the package of this checkout, and old.deb, the same code with a lower version.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vm.image import make_kernel_root
from vm.qemu import PROGRAM
from vm.roots import DEBIANS, IS_PART, cache_folder, make_layers

TOP = Path(__file__).resolve().parents[2]
OLD = "0.0.1"
VERSION_FILE = "usr/lib/exclave/exclave/__init__.py"


def build(folder: Path) -> None:
    """Build both packages."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([str(TOP / "packaging/build"), made, "deb"], check=True, stdout=subprocess.DEVNULL)
        [new] = Path(made).glob("exclave_*.deb")
        shutil.copyfile(new, folder / "new.deb")
    write_older(folder / "new.deb", folder / "old.deb")


def write_older(new: Path, old: Path) -> None:
    """The same package with the version OLD, also in its code."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", str(new), str(tree)], check=True)
        for file, start in (("DEBIAN/control", "Version: "), (VERSION_FILE, "__version__ = ")):
            path = tree / file
            version = f'"{OLD}"' if "=" in start else OLD
            lines = [start + version if line.startswith(start) else line for line in path.read_text().splitlines()]
            path.write_text("\n".join(lines) + "\n")
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", str(tree), str(old)],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1])
    build(target)
    for debian in DEBIANS:
        make_layers(debian, target / "new.deb", cache_folder())
    if not IS_PART and shutil.which(PROGRAM) is None:
        print(f"no machine with a kernel of its own: {PROGRAM} is missing (qemu-system-x86, qemu-utils)")
    elif not IS_PART:
        make_kernel_root(cache_folder())
