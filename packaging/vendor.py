"""The libraries in the packages for EL, which has not all of them: wheels for its Python 3.12, held by their hashes.

`python packaging/vendor.py` renews packaging/vendor/*.txt with the newest versions.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGING = Path(__file__).resolve().parent

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

GLIBC = (34, 28, 27, 26, 24, 17, 12, 5)
"""The glibc that a wheel may need, 2.x. EL9 has 2.34, EL10 has 2.39."""

WANTED = {
    "exclave": ("trio", "httpx", "h2", "cryptography", "jwcrypto", "psutil", "netifaces-plus", "dnspython"),
    "exclave-admin": ("cryptography", "PyYAML"),
}

LEFT_OUT = re.compile(
    r"\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$|(^|/)(_?tests?|_tools)/|\.(pyi|h)$|\.data/"
)
"""Tests, files that only developers use, and lists of files, which would be wrong without these."""


class CannotFetch(Exception):
    """The package index is not reached, or it has other files than those of the list."""


def unpack_libraries(folder: Path, name: str, arch: str) -> None:
    """Fetch the wheels of a package and unpack them into `folder`. Raises CannotFetch."""
    cache = Path(os.environ.get("EXCLAVE_TOOLS", Path.home() / ".cache/exclave/tools"))
    with tempfile.TemporaryDirectory(prefix="exclave-wheels.") as temporary:
        arguments = ("--require-hashes", "--no-deps", "-r", str(PACKAGING / f"vendor/{name}.txt"))
        for wheel in download(arch, Path(temporary), *arguments, cache=cache / "pip"):
            _unpack(wheel, folder)


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.is_dir() and LEFT_OUT.search(member.filename) is None:
                archive.extract(member, folder)


def download(arch: str, folder: Path, *arguments: str, cache: Path, python: str = "3.12") -> list[Path]:
    """Fetch wheels for a machine and a version of Python. Raises CannotFetch."""
    machine = MACHINES[arch]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--cache-dir", cache]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += ["--abi", f"cp{python.replace('.', '')}"]
    command += ["--abi", "abi3", "--abi", "none", "--dest", folder]
    for platform in platforms:
        command += ["--platform", platform]
    done = subprocess.run([*map(str, command), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotFetch(f"the wheels for {machine} cannot be fetched: {done.stderr.strip()}")
    return sorted(folder.iterdir())


def renew(name: str) -> None:
    """Write the newest versions that fit both architectures, with the hashes of their wheels."""
    found: dict[str, set[str]] = {}
    for arch in MACHINES:
        with tempfile.TemporaryDirectory(prefix="exclave-wheels.") as temporary:
            for wheel in download(arch, Path(temporary), *WANTED[name], cache=Path(temporary) / "cache"):
                if wheel.suffix == ".whl":
                    project, version = wheel.name.split("-")[:2]
                    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
                    found.setdefault(f"{project.replace('_', '-').lower()}=={version}", set()).add(digest)
    lines = ["# The libraries in the package for EL, with the SHA-256 of their wheels. Renewed by packaging/vendor.py."]
    for requirement, digests in sorted(found.items()):
        lines.append(" \\\n    ".join([requirement, *(f"--hash=sha256:{digest}" for digest in sorted(digests))]))
    (PACKAGING / f"vendor/{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for each in WANTED:
        renew(each)
