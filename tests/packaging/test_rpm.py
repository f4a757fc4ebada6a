"""The packages for Fedora and EL: their files, what they need, and the libraries in them.

Here is neither Fedora nor EL: rpm, dnf and rpmlint are Debian's, and Python 3.12 is whatever this machine has.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from architecture.tree import TOP
from exclave import __version__
from support.packages import build, imports_of, skip_without, unpack_rpm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEDORA = {name: f"{name}-{__version__}-1.noarch.rpm" for name in ("exclave", "exclave-admin")}
EL = {
    (name, arch): f"{name}-{__version__}-1.el.{arch}.rpm"
    for name in ("exclave", "exclave-admin")
    for arch in ("x86_64", "aarch64")
}

REQUIRES = {
    FEDORA["exclave"]: [
        "python3 >= 3.11",
        "python3-trio >= 0.22",
        "python3-httpx >= 0.23.3",
        "python3-h2 >= 4.1",
        "python3-cryptography >= 38.0.4",
        "python3-jwcrypto >= 1.0",
        "python3-psutil >= 5.9.4",
        "python3-netifaces",
        "python3-dns >= 2.3",
        "iproute",
        "nftables",
        "systemd",
    ],
    FEDORA["exclave-admin"]: ["python3 >= 3.11", "python3-cryptography >= 38.0.4", "python3-pyyaml >= 6.0"],
    **{
        EL["exclave", arch]: ["/usr/bin/python3.12", "glibc >= 2.34", "iproute", "nftables", "systemd"]
        for arch in ("x86_64", "aarch64")
    },
    **{EL["exclave-admin", arch]: ["/usr/bin/python3.12", "glibc >= 2.34"] for arch in ("x86_64", "aarch64")},
}


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    skip_without("rpm")
    return build(tmp_path_factory.mktemp("rpms"), "fedora", "el")


@pytest.fixture(scope="module")
def unpacked(rpms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    skip_without("rpm2archive")
    return {name: unpack_rpm(package, tmp_path_factory.mktemp("unpacked")) for name, package in rpms.items()}


def query(package: Path, *arguments: str) -> list[str]:
    done = subprocess.run(["rpm", "-qp", *arguments, package], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_there_is_a_package_for_fedora_and_one_for_each_architecture_of_el(rpms: dict[str, Path]) -> None:
    assert sorted(rpms) == sorted(REQUIRES)


@pytest.mark.parametrize("name", REQUIRES)
def test_what_a_package_requires(name: str, rpms: dict[str, Path]) -> None:
    found = query(rpms[name], "--requires")
    assert [line for line in found if not line.startswith(("rpmlib(", "config("))] == REQUIRES[name]


def test_an_update_leaves_a_changed_configuration(rpms: dict[str, Path]) -> None:
    for name in (FEDORA["exclave"], *(EL["exclave", arch] for arch in ("x86_64", "aarch64"))):
        flags = query(rpms[name], "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\\n]")
        assert [line for line in flags if line.endswith(("c", "cn"))] == ["/etc/exclave/config.toml cn"]


@pytest.mark.parametrize("name", REQUIRES)
def test_the_scripts_use_the_python_of_the_package(name: str, rpms: dict[str, Path]) -> None:
    scripts = "\n".join(query(rpms[name], "--scripts"))
    python = "/usr/bin/python3.12" if ".el." in name else "/usr/bin/python3"
    assert re.findall(r"^(\S+) -m compileall", scripts, re.MULTILINE) == [python]
    assert "@" not in scripts


def test_no_library_needs_a_newer_glibc_than_el9_has(unpacked: dict[str, Path]) -> None:
    for (name, _), package in EL.items():
        libraries = list((unpacked[package] / f"usr/lib/{name}/vendor").rglob("*.so"))
        assert len(libraries) == {"exclave": 4, "exclave-admin": 3}[name]
        for library in libraries:
            versions = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())]
            assert versions and max(versions) <= 34, library


def test_the_libraries_are_those_of_the_list(unpacked: dict[str, Path]) -> None:
    for (name, _), package in EL.items():
        listed = re.findall(r"^([a-z].*)==(\S+)", (TOP / f"packaging/vendor/{name}.txt").read_text(), re.MULTILINE)
        folders = (unpacked[package] / f"usr/lib/{name}/vendor").glob("*.dist-info")
        found = [folder.name.removesuffix(".dist-info").rsplit("-", 1) for folder in folders]
        assert sorted((project.replace("_", "-").lower(), version) for project, version in found) == sorted(listed)


def find_python312() -> str:
    pyenv = Path.home() / ".pyenv/versions"
    found = [shutil.which("python3.12", path="/usr/bin:/usr/local/bin"), *pyenv.glob("3.12*/bin/python3.12")]
    names = [str(path) for path in found if path is not None]
    if not names:
        pytest.skip("there is no Python 3.12 here")
    return names[0]


@pytest.mark.parametrize("name", ["exclave", "exclave-admin"])
def test_the_code_runs_on_python_312_with_the_libraries_of_the_package_alone(
    name: str, unpacked: dict[str, Path], tmp_path: Path
) -> None:
    """Of the shebang only the path is another; -S leaves out what pip or the distribution has installed."""
    python = find_python312()
    root = unpacked[EL[name, os.uname().machine]]
    home = root / "usr/lib" / name
    program = {"exclave": "exclave", "exclave-admin": "kubectl-exclave"}[name]
    text = (root / "usr/bin" / program).read_text()
    assert text.startswith("#!/usr/bin/python3.12 -ISB\n")
    launcher = tmp_path / program
    launcher.write_text(text.replace("/usr/bin/python3.12", python).replace(f"/usr/lib/{name}", str(home)))
    launcher.chmod(0o755)
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, env={})
    assert (done.stdout, done.stderr) == (f"exclave {__version__}\n", "")
    check = "import exclave.kit.host.packages; exclave.kit.host.packages.check_packages()" if name == "exclave" else ""
    folders = f"import sys; sys.path[:0] = [{str(home)!r}, {str(home / 'vendor')!r}]"
    code = f"{folders}\n{imports_of(home)}\n{check}\nimport cryptography; print(cryptography.__file__)"
    done = subprocess.run([python, "-ISB", "-c", code], capture_output=True, text=True, env={}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{home}/vendor/cryptography/__init__.py\n"


def test_rpmlint_finds_nothing(rpms: dict[str, Path], tmp_path: Path) -> None:
    skip_without("rpmlint")
    cpio = tmp_path / "cpio"  # rpmlint unpacks by cpio; see unpack_rpm()
    cpio.write_text('#!/bin/sh\nexec /usr/bin/cpio --no-absolute-filenames "$@"\n')
    cpio.chmod(0o755)
    command = ["rpmlint", "--config", str(TOP / "packaging/rpm/rpmlint.toml"), *map(str, rpms.values())]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "0 errors, 0 warnings" in done.stdout, done.stdout


def test_the_packages_for_fedora_are_the_same_bytes_twice(rpms: dict[str, Path], tmp_path: Path) -> None:
    for name, path in build(tmp_path, "fedora").items():
        assert path.read_bytes() == rpms[name].read_bytes(), name
