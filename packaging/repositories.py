"""Signed repositories for apt and for dnf, as folders that any web server can publish.

The apt repository is made by apt-ftparchive: Debian 12's reprepro lists one version of a package only, and who goes
back needs the former one.
"""

import gzip
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from signing import Key, sign_beside, sign_inside, sign_packages

SUITE, COMPONENT = "stable", "main"
ARCHITECTURES = ("amd64", "arm64")  # apt reads no list of a suite that does not name its own; the packages are for all


def make_apt_repository(folder: Path, packages: Iterable[Path], key: Key) -> None:
    """Write lists and packages, signed. Raises CannotSign, CalledProcessError."""
    pool = folder / "pool"
    pool.mkdir(parents=True)
    for package in packages:
        shutil.copyfile(package, pool / package.name)
    text = _archive(folder, "packages", "pool")
    suite = folder / "dists" / SUITE
    for architecture in ARCHITECTURES:
        lists = suite / COMPONENT / f"binary-{architecture}"
        lists.mkdir(parents=True)
        (lists / "Packages").write_bytes(text)
        (lists / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
    fields = {
        "Origin": "exclave",
        "Label": "exclave",
        "Suite": SUITE,
        "Codename": SUITE,
        "Components": COMPONENT,
        "Architectures": " ".join(ARCHITECTURES),
    }
    options = [word for name, value in fields.items() for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")]
    release = suite / "Release"
    release.write_bytes(_archive(folder, *options, "release", f"dists/{SUITE}"))
    sign_inside(release, suite / "InRelease", key)
    sign_beside(release, key).rename(suite / "Release.gpg")


def _archive(folder: Path, *words: str) -> bytes:
    """Run apt-ftparchive in a folder. Returns what it prints."""
    return subprocess.run(["apt-ftparchive", *words], cwd=folder, check=True, capture_output=True).stdout


def make_rpm_repository(folder: Path, packages: Iterable[Path], key: Key, date: int) -> None:
    """Write packages, which are signed already, and their signed index. Raises CannotSign, CalledProcessError."""
    folder.mkdir(parents=True)
    for package in packages:
        copy = Path(shutil.copyfile(package, folder / package.name))
        os.utime(copy, (date, date))  # the index has it
    command = ["createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz"]
    command += ["--revision", str(date), "--set-timestamp-to-revision"]
    subprocess.run([*command, str(folder)], check=True, capture_output=True)
    sign_beside(folder / "repodata/repomd.xml", key)


def sign_copies(packages: Iterable[Path], folder: Path, key: Key) -> list[Path]:
    """Signed copies of rpms in a folder. Raises CannotSign."""
    folder.mkdir(parents=True)
    copies = [Path(shutil.copyfile(package, folder / package.name)) for package in packages]
    sign_packages(copies, key)
    return copies
