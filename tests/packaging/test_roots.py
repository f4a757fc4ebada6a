"""Packages in roots where no systemd runs, as when an image is built: scripts work, and touch nothing of the kernel."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exclave import __version__
from support.needs import need
from support.packages import build, imports_of, nfpm_program, skip_without, unpack_rpm
from vm.repository import make_repository
from vm.roots import DEBIANS, Layers, arm64_root, cache_folder, layers_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

Mounted = Callable[..., Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts folders over each other, the uppermost first, below one that takes all changes."""
    roots: list[Path] = []

    def mount(*lower: Path) -> Path:
        for name in ("upper", "work", "root"):
            (tmp_path / name).mkdir()
        root = tmp_path / "root"
        option = f"lowerdir={':'.join(map(str, lower))},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", option, root], check=True)
        roots.append(root)
        return root

    yield mount
    for root in roots:
        subprocess.run(["umount", "--recursive", root], check=True)


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(os.geteuid() == 0, "needs root")
    return build(tmp_path_factory.mktemp("deb"), "deb")[f"exclave_{__version__}-1_all.deb"]


def layers(debian: str, package: Path) -> Layers:
    found = layers_of(debian, package, cache_folder())
    need(not found.missing(), f"there is no root of Debian {debian}; ./tests/run --vm makes it")
    return found


def run_in(root: Path, script: str) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ["chroot", root, "sh", "-ec", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def named_exclave(root: Path) -> set[str]:
    found = subprocess.run(["find", root, "-xdev", "-name", "*exclave*"], capture_output=True, text=True).stdout
    return {f"/{Path(line).relative_to(root)}" for line in found.splitlines()}


@pytest.mark.parametrize("debian", DEBIANS)
def test_a_deb_is_installed_upgraded_and_purged_in_a_chroot(debian: str, deb: Path, mounted: Mounted) -> None:
    found = layers(debian, deb)
    root = mounted(found.archives, found.system)
    shutil.copyfile(deb, root / "root/new.deb")
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    before = named_exclave(root)

    run_in(root, "apt-get -qq -y install /root/new.deb")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert {path.name for path in wants.glob("exclave*")} == {"exclave.service", "exclave-join.service"}
    assert run_in(root, "id -un exclave-proxy") == "exclave-proxy\n"
    assert run_in(root, "exclave --version") == f"exclave {__version__}\n"
    compiled = {path.parent.parent for path in (root / "usr/lib/exclave").rglob("*.pyc")}
    assert root / "usr/lib/exclave/exclave/daemon" in compiled
    assert not (root / "run/exclave").exists()
    assert not (root / "var/lib/exclave").exists()

    run_in(root, "systemctl disable exclave.service; dpkg -i /root/new.deb")
    assert {path.name for path in wants.glob("exclave*")} == {"exclave-join.service"}  # as the admin wants it

    run_in(root, "dpkg --remove exclave")
    assert not list(wants.glob("exclave*"))
    assert not (root / "usr/lib/exclave").exists()
    assert (root / "etc/exclave/config.toml").is_file()

    (root / "var/lib/exclave").mkdir()
    record = {"servers": ["https://10.0.0.1:6443"], "ca": "", "namespace": "shop", "member": "web-k7q2x-1"}
    (root / "var/lib/exclave/membership.json").write_text(json.dumps(record, indent=1))
    said = run_in(root, "dpkg --purge exclave")
    assert "kubectl exclave member evict web-k7q2x-1 -n shop\n" in said
    assert named_exclave(root) == before
    assert "exclave" not in (root / "etc/passwd").read_text() + (root / "etc/group").read_text()


def stub(folder: Path) -> Path:
    """An rpm that provides what Fedora's packages do, in the versions of rawhide in August 2026, and what EL's do."""
    libraries = {"trio": "0.33", "httpx": "0.28.1", "h2": "4.3", "cryptography": "50", "jwcrypto": "1.5.8"}
    libraries |= {"psutil": "7.2", "netifaces": "0.11", "dns": "2.8"}
    provides = ["/bin/sh", "python3 = 3.14", "iproute = 6", "nftables = 1.1", "systemd = 258"]
    provides += ["/usr/bin/python3.12", "glibc = 2.34"]
    provides += [f"python3-{name} = {version}" for name, version in libraries.items()]
    config = {"name": "stub", "arch": "all", "version": "1.0.0", "maintainer": "nobody", "provides": provides}
    (folder / "stub.json").write_text(json.dumps(config))
    command = [
        nfpm_program(),
        "package",
        "--config",
        folder / "stub.json",
        "--packager",
        "rpm",
        "--target",
        f"{folder}/",
    ]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.rpm")
    return made


def rpm(root: Path, *arguments: str) -> list[str]:
    done = subprocess.run(["rpm", "--root", root, *arguments], capture_output=True, text=True)
    return done.stdout.splitlines()


def test_dnf_installs_an_rpm_and_rpm_verifies_and_erases_it(deb: Path, mounted: Mounted, tmp_path: Path) -> None:
    """The root is Debian's, for the programs that scripts run; the packages that exclave needs are a stub."""
    skip_without("dnf")
    root = mounted(layers("bookworm", deb).system)
    package = build(tmp_path / "rpms", "fedora")[f"exclave-{__version__}-1.noarch.rpm"]
    (tmp_path / "stub").mkdir()
    options = [f"--installroot={root}", "--releasever=1", "--disablerepo=*", "--nogpgcheck"]
    options.append(f"--setopt=cachedir={tmp_path}/cache")
    command = ["dnf", "--assumeyes", *options, "install", stub(tmp_path / "stub"), package]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    assert rpm(root, "--verify", "exclave") == []
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert {path.name for path in wants.glob("exclave*")} == {"exclave.service", "exclave-join.service"}
    assert run_in(root, "id -un exclave-proxy") == "exclave-proxy\n"

    config = root / "etc/exclave/config.toml"
    config.write_text("# mine\n")
    assert rpm(root, "--verify", "exclave") == ["S.5....T.  c /etc/exclave/config.toml"]
    (wants / "exclave.service").unlink()
    rpm(root, "--upgrade", "--force", str(package))
    assert config.read_text() == "# mine\n"
    assert {path.name for path in wants.glob("exclave*")} == {"exclave-join.service"}  # as the admin wants it

    rpm(root, "--erase", "exclave")
    assert rpm(root, "--query", "exclave") == ["package exclave is not installed"]
    assert named_exclave(root) == {"/etc/exclave"}
    assert [path.name for path in (root / "etc/exclave").iterdir()] == ["config.toml.rpmsave"]


def released() -> Path:
    """The release that ./tests/run --vm has built."""
    folder = Path(os.environ["EXCLAVE_VM_PACKAGES"]) / "release"
    need(folder.is_dir(), "no release could be built; ./tests/run --vm prints the reason")
    return folder


@pytest.mark.parametrize("system", ["fedora", "el"])
def test_dnf_installs_from_a_releases_repository_and_from_no_other(
    system: str, deb: Path, mounted: Mounted, tmp_path: Path
) -> None:
    skip_without("dnf")
    release = released()
    root = mounted(layers("bookworm", deb).system)
    repository, key = tmp_path / "repository", tmp_path / "key.asc"
    shutil.copytree(release / "rpm" / system, repository)
    (tmp_path / "exclave.repo").write_text(
        f"[exclave]\nname=exclave\nbaseurl=file://{repository}\ngpgkey=file://{key}\ngpgcheck=1\nrepo_gpgcheck=1\n"
    )

    def install(*words: str | Path) -> "subprocess.CompletedProcess[str]":
        options = [f"--installroot={root}", "--releasever=1", f"--setopt=reposdir={tmp_path}", "--setopt=retries=1"]
        command = ["dnf", "--assumeyes", *options, f"--setopt=cachedir={tmp_path}/cache", "install", *words]
        return subprocess.run(command, capture_output=True, text=True)

    def refused(reason: str) -> bool:
        done = install("exclave")
        assert rpm(root, "--query", "exclave") == ["package exclave is not installed"]
        return done.returncode != 0 and reason in done.stdout + done.stderr

    (tmp_path / "stub").mkdir()
    assert install("--disablerepo=*", "--nogpgcheck", stub(tmp_path / "stub")).returncode == 0

    key.write_text(make_repository(tmp_path / "another", []))
    assert refused("repomd.xml GPG signature verification error")
    shutil.copyfile(release / "exclave.asc", key)
    signed = repository / "repodata/repomd.xml"
    right = signed.read_text()
    signed.write_text(right.replace("<revision>", "<revision>1"))
    assert refused("repomd.xml GPG signature verification error")
    signed.write_text(right)
    name = {"fedora": f"exclave-{__version__}-1.noarch.rpm", "el": f"exclave-{__version__}-1.el.x86_64.rpm"}[system]
    package = (repository / name).read_bytes()
    (repository / name).write_bytes(package[:-1] + b"x")
    assert refused("incorrect checksum")
    (repository / name).write_bytes(package)

    done = install("exclave")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rpm(root, "--verify", "exclave") == []
    assert rpm(root, "--query", "exclave") == [name.removesuffix(".rpm")]


# For arm64, by qemu's emulation of its processor. Python and libraries are those of Debian 12 for arm64.

LIBRARIES = """
import platform, psutil._psutil_linux, netifaces, _cffi_backend
import cryptography.hazmat.bindings._rust as rust
from cryptography.hazmat.primitives.asymmetric import ec
from exclave.kit.host.packages import check_packages
check_packages()
ec.generate_private_key(ec.SECP256R1())
print(platform.machine(), rust.__file__, psutil._psutil_linux.__file__)
"""


def python_on_arm64(root: Path, *words: str | Path) -> str:
    command = ["qemu-aarch64-static", "-L", root, root / "usr/bin/python3", "-I", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def arm64(deb: Path, mounted: Mounted) -> Path:
    skip_without("qemu-aarch64-static")
    found = arm64_root(deb, cache_folder())
    need(found.is_dir(), "there is no root for arm64; ./tests/run --vm makes it")
    return mounted(found)


def test_the_deb_runs_on_arm64(deb: Path, arm64: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", deb, arm64], check=True)
    assert python_on_arm64(arm64, arm64 / "usr/bin/exclave", "--version") == f"exclave {__version__}\n"
    home = arm64 / "usr/lib/exclave"
    code = f"import sys; sys.path.insert(0, {str(home)!r})\n{imports_of(home)}\n{LIBRARIES}"
    machine, rust, _ = python_on_arm64(arm64, "-c", code).split()
    assert machine == "aarch64"
    assert rust.startswith(f"{arm64}/usr/lib/python3/dist-packages/")


def test_the_libraries_of_els_package_for_arm64_run(arm64: Path) -> None:
    """Debian has no Python 3.12. What is compiled for that alone, cffi and netifaces, is replaced by Debian's."""
    unpack_rpm(released() / f"rpm/el/exclave-{__version__}-1.el.aarch64.rpm", arm64)
    home, vendor = arm64 / "usr/lib/exclave", arm64 / "usr/lib/exclave/vendor"
    bound = sorted(path.name.partition(".")[0] for path in vendor.rglob("*.cpython-312-*.so"))
    assert bound == ["_cffi_backend", "_netifaces"]
    shutil.rmtree(vendor / "netifaces")
    code = f"import sys; sys.path[:0] = [{str(home)!r}, {str(vendor)!r}]\n{imports_of(home)}\n{LIBRARIES}"
    machine, *compiled = python_on_arm64(arm64, "-c", code).split()
    assert machine == "aarch64"
    assert len(compiled) == 2 and all(name.startswith(f"{vendor}/") for name in compiled)
