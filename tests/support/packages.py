"""Packages as the tests read them: built by `packaging/build`, and unpacked."""

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from architecture.tree import TOP
from support.needs import need

NO_NFPM, NO_LIBRARIES = 3, 4
"""Exit status of packaging/build if Go cannot build nfpm, or without a package index for EL's libraries."""


def build(folder: Path, *kinds: str, checkout: Path = TOP) -> dict[str, Path]:
    """Build packages into `folder`. Returns them by their file names."""
    done = subprocess.run([checkout / "packaging/build", folder, *kinds], capture_output=True, text=True)
    reason = f"packages cannot be built here: {done.stderr.strip()[-300:]}"
    need(done.returncode != NO_NFPM, reason)  # CI has Go, which also builds its Kubernetes servers
    if done.returncode == NO_LIBRARIES:
        pytest.skip(reason)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: path for path in folder.iterdir()}


def nfpm_program() -> Path:
    """The nfpm that packaging/build has built last."""
    (version,) = re.findall(r"^nfpm_version=(\S+)", (TOP / "packaging/prepare").read_text(), re.MULTILINE)
    return Path(os.environ.get("EXCLAVE_TOOLS", Path.home() / ".cache/exclave/tools"), f"nfpm-{version}")


def skip_without(program: str) -> None:
    """Skip where a program is absent that is too large to be installed for these tests."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@dataclass(frozen=True)
class Member:
    """A file or folder of a package, with the mode as in `ls -l`, and owner/group."""

    mode: str
    owner: str


def deb_members(package: Path) -> dict[str, Member]:
    """The files and folders of a deb, by their absolute names."""
    command = ["dpkg-deb", "--contents", package]
    listed = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
    ).stdout
    found = {}
    for line in listed.splitlines():
        mode, owner, _, _, _, name, *_ = line.split()
        found[name.removeprefix(".").rstrip("/")] = Member(mode, owner)
    return found


def unpack_rpm(package: Path, folder: Path) -> Path:
    """Unpack an rpm. nfpm writes absolute names, so cpio would write into this machine's folders; tar does not."""
    packed = subprocess.run(["rpm2archive", "-n", "-"], stdin=package.open("rb"), capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    return folder


def imports_of(folder: Path) -> str:
    """A program that imports every module of exclave in a folder."""
    names = []
    for path in sorted((folder / "exclave").rglob("*.py")):
        ast.parse(path.read_text())
        parts = path.relative_to(folder).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return "\n".join(f"import {name}" for name in names if name != "exclave.__main__")


def imported_modules(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every import below `folder`, with its file: the full name of the module."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, one.name) for one in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                yield path, node.module
