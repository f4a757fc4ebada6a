"""The packages for Debian and Ubuntu: their files, what they need, and that they are built alike everywhere."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from architecture.tree import TOP
from exclave import __version__
from exclave.cli.config_text import example_config
from support.packages import build, deb_members, imported_modules, nfpm_program, skip_without

AGENT, ADMIN = f"exclave_{__version__}-1_all.deb", f"exclave-admin_{__version__}-1_all.deb"

DEPENDS = {
    AGENT: [
        "python3 (>= 3.11)",
        "python3-trio (>= 0.22)",
        "python3-httpx (>= 0.23.3)",
        "python3-h2 (>= 4.1)",
        "python3-cryptography (>= 38.0.4)",
        "python3-jwcrypto (>= 1.0)",
        "python3-psutil (>= 5.9.4)",
        "python3-netifaces",
        "python3-dnspython (>= 2.3)",
        "iproute2",
        "nftables",
        "systemd | systemd-standalone-sysusers | systemd-sysusers",
    ],
    ADMIN: ["python3 (>= 3.11)", "python3-cryptography (>= 38.0.4)", "python3-yaml (>= 6.0)"],
}

PROVIDES = {
    "trio": "python3-trio",
    "httpx": "python3-httpx",
    "h2": "python3-h2",
    "cryptography": "python3-cryptography",
    "jwcrypto": "python3-jwcrypto",
    "psutil": "python3-psutil",
    "netifaces": "python3-netifaces",
    "dns": "python3-dnspython",
    "yaml": "python3-yaml",
}
"""Debian's package of each module that the code imports."""

OPTIONAL = {
    AGENT: {"exclave.admin", "exclave.controller.replica", "exclave.controller.run", "tomli"},
    ADMIN: {"shtab"},
}
"""Imports that may fail: the command then names what is missing. tomli is part of Python from 3.11 on."""


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("debs"), "deb")


@pytest.fixture(scope="module")
def unpacked(debs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, package in debs.items():
        folders[name] = tmp_path_factory.mktemp("unpacked")
        subprocess.run(["dpkg-deb", "--raw-extract", package, folders[name]], check=True)
    return folders


def field(package: Path, name: str) -> str:
    command = ["dpkg-deb", "--field", str(package), name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_there_are_two_packages_for_all_architectures(debs: dict[str, Path]) -> None:
    assert sorted(debs) == sorted([AGENT, ADMIN])
    assert {field(package, "Architecture") for package in debs.values()} == {"all"}


@pytest.mark.parametrize("name", [AGENT, ADMIN])
def test_what_a_package_depends_on(name: str, debs: dict[str, Path]) -> None:
    assert field(debs[name], "Depends").split(", ") == DEPENDS[name]


@pytest.mark.parametrize("name", [AGENT, ADMIN])
def test_every_import_is_covered(name: str, unpacked: dict[str, Path]) -> None:
    (code,) = (unpacked[name] / "usr/lib").glob("exclave*")
    covered = {words.split()[0] for words in DEPENDS[name]}
    missing = set()
    for path, module in imported_modules(code):
        first = module.split(".")[0]
        base = code.joinpath(*module.split("."))
        is_there = base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()
        is_covered = first in sys.stdlib_module_names or PROVIDES.get(first) in covered
        if not (is_there or is_covered or module in OPTIONAL[name]):
            missing.add(f"{path.relative_to(code)}: {module}")
    assert not missing


def test_the_agent_has_neither_the_admins_commands_nor_the_controller(unpacked: dict[str, Path]) -> None:
    rooms = {path.name for path in (unpacked[AGENT] / "usr/lib/exclave/exclave").iterdir()}
    assert {"daemon", "join", "redirect", "proxy"} <= rooms
    assert not rooms & {"admin", "controller"}
    assert not (unpacked[AGENT] / "usr/lib/exclave-admin").exists()


@pytest.mark.parametrize("name", [AGENT, ADMIN])
def test_files_belong_to_root_and_only_root_writes_them(name: str, debs: dict[str, Path]) -> None:
    members = deb_members(debs[name])
    assert {member.owner for member in members.values()} == {"root/root"}
    programs = {path for path, member in members.items() if member.mode == "-rwxr-xr-x"}
    assert {os.path.dirname(path) for path in programs} == {"/usr/bin", "/usr/share/python3/runtime.d"}
    modes = {member.mode for member in members.values() if member.mode[0] != "l"}
    assert modes == {"drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"}
    assert not [path for path in members if path.endswith((".pyc", "__pycache__"))]


def test_where_the_agents_files_are(debs: dict[str, Path]) -> None:
    units = {f"/usr/lib/systemd/system/{path.name}" for path in (TOP / "systemd").iterdir()}
    files = {path for path, member in deb_members(debs[AGENT]).items() if member.mode[0] != "d"}
    assert {path for path in files if not path.startswith("/usr/lib/exclave/exclave/")} == {
        "/usr/bin/exclave",
        "/etc/exclave/config.toml",
        *(path for path in units if path.endswith((".service", ".target"))),
        "/usr/lib/systemd/system/exclave-proxy@check.service.d/exit-status.conf",
        "/usr/lib/systemd/system-preset/90-exclave.preset",
        "/usr/lib/sysusers.d/exclave.conf",
        "/usr/lib/tmpfiles.d/exclave.conf",
        "/usr/share/man/man5/exclave-config.5.gz",
        "/usr/share/man/man8/exclave.8.gz",
        "/usr/share/doc/exclave/changelog.Debian.gz",
        "/usr/share/doc/exclave/copyright",
        "/usr/share/lintian/overrides/exclave",
        "/usr/share/python3/runtime.d/exclave.rtupdate",
    }


def test_the_admins_programs_have_the_names_by_which_they_are_found(debs: dict[str, Path]) -> None:
    programs = {path for path in deb_members(debs[ADMIN]) if path.startswith("/usr/bin/")}
    assert programs == {"/usr/bin/kubectl-exclave", "/usr/bin/linkerd-exclave", "/usr/bin/kubectl_complete-exclave"}


def test_the_configuration_is_a_conffile_with_every_key(unpacked: dict[str, Path]) -> None:
    assert (unpacked[AGENT] / "DEBIAN/conffiles").read_text().split() == ["/etc/exclave/config.toml"]
    assert (unpacked[AGENT] / "etc/exclave/config.toml").read_text() == example_config()


def test_the_scripts_enable_the_units_of_the_preset(unpacked: dict[str, Path]) -> None:
    preset = [line.split()[1] for line in (TOP / "systemd/exclave.preset").read_text().splitlines() if line[0] != "#"]
    for script in ("postinst", "postrm"):
        (listed,) = re.findall(r'^units="(.*)"', (unpacked[AGENT] / "DEBIAN" / script).read_text(), re.MULTILINE)
        assert listed.split() == preset
    for script in ("post", "preun"):
        listed = (TOP / f"packaging/rpm/exclave.{script}").read_text()
        assert f"{' '.join(preset)} ||" in listed


@pytest.mark.parametrize(
    ("name", "program", "words"),
    [
        (AGENT, "exclave", ["--version"]),
        (ADMIN, "kubectl-exclave", ["--version"]),
        (ADMIN, "linkerd-exclave", ["--version"]),
    ],
)
def test_a_program_starts_and_ignores_the_users_python_settings(
    name: str, program: str, words: list[str], unpacked: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "exclave.py").write_text("raise SystemExit('not this one')")
    launcher = tmp_path / program
    text = (unpacked[name] / "usr/bin" / program).read_text().replace('"/usr/lib/', f'"{unpacked[name]}/usr/lib/')
    launcher.write_text(text.replace("#!/usr/bin/python3 ", f"#!{sys.executable} "))
    launcher.chmod(0o755)
    done = subprocess.run(
        [launcher, *words], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert (done.stdout, done.stderr) == (f"exclave {__version__}\n", "")
    assert not list(unpacked[name].rglob("*.pyc"))


def copy_checkout(folder: Path) -> Path:
    """A checkout of other times and modes, with the environment of this one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        source, target = TOP / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o700 if os.access(source, os.X_OK) else 0o600)
            os.utime(target, (1_000_000_000, 1_000_000_000))
    return folder


def test_another_checkout_gives_the_same_bytes(
    debs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("NFPM", str(nfpm_program()))
    monkeypatch.setenv("COLUMNS", "40")
    program = [sys.executable, "-B", checkout / "packaging/packages.py", tmp_path / "built", "deb"]
    done = subprocess.run(program, capture_output=True, text=True, umask=0o077, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, package in debs.items():
        assert (tmp_path / "built" / name).read_bytes() == package.read_bytes(), name


def test_a_changelog_of_another_version_is_an_error(debs: dict[str, Path], tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / "agent/exclave/__init__.py").write_text('__version__ = "7.8.9rc1"')
    program = [sys.executable, "-B", checkout / "packaging/packages.py", tmp_path / "built", "deb"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"packaging/build: packaging/changelog begins with {__version__}-1, but this is version 7.8.9~rc1-1\n"
    )


VERSIONS = {
    "1.2.3": "1.2.3",
    "1.2.3a1": "1.2.3~a1",
    "1.2.3rc2": "1.2.3~rc2",
    "1.2.3.dev4": "1.2.3~~dev4",
    "1.2.3rc2.dev4": "1.2.3~rc2~dev4",
    "1.2.3.post1": "1.2.3.post1",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_has_one_form_in_packages(version: str, package_version: Callable[[str], str]) -> None:
    assert package_version(version) == VERSIONS[version]


def test_dpkg_sorts_versions_as_python_does(package_version: Callable[[str], str]) -> None:
    order = ["1.2.3.dev4", "1.2.3a1", "1.2.3rc2.dev4", "1.2.3rc2", "1.2.3", "1.2.3.post1", "1.2.4.dev0"]
    for earlier, later in pairwise(map(package_version, order)):
        assert subprocess.run(["dpkg", "--compare-versions", earlier, "lt", later]).returncode == 0, (earlier, later)


@pytest.mark.parametrize("version", ["", "0.1.0+local", "v1", "1.2.3-rc1"])
def test_a_version_that_packages_cannot_have_is_an_error(version: str, package_version: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="a version such as"):
        package_version(version)


@pytest.fixture(scope="module")
def package_version() -> Iterator[Callable[[str], str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOP / "packaging"))
        yield importlib.import_module("packages").package_version


def test_lintian_finds_nothing(debs: dict[str, Path]) -> None:
    skip_without("lintian")
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", *map(str, debs.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing(unpacked: dict[str, Path]) -> None:
    skip_without("shellcheck")
    scripts = [path for folder in unpacked.values() for path in (folder / "DEBIAN").glob("p*")]
    assert len(scripts) == 5
    scripts += [TOP / "packaging/deb/rtupdate", *(TOP / "packaging/rpm").glob("exclave*")]
    done = subprocess.run(["shellcheck", "--shell=sh", *map(str, scripts)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["kubectl-exclave", "gr"], "group"), (["kubectl-exclave", "group", "cre"], "create")],
    ids=" ".join,
)
def test_bash_completes(words: list[str], expected: str, unpacked: dict[str, Path]) -> None:
    script = unpacked[ADMIN] / "usr/share/bash-completion/completions/kubectl-exclave"
    typed = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _kubectl_exclave"
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    shell = ["bash", "-c", f'. {script}; {typed}; echo "${{COMPREPLY[@]}}"']
    done = subprocess.run(shell, capture_output=True, text=True, env={"PATH": programs})
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")
