"""Missing and old Python packages are named, with the names of their distributions."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from exclave.errors import Fault, HostError
from exclave.kit.host import packages
from exclave.kit.host.packages import AGENT, OTHERS, TOMLI, check_packages, is_older, missing_package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOP = Path(__file__).resolve().parents[3]


def test_the_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    more = project["optional-dependencies"]
    declared = [*project["dependencies"], *more["controller"], *more["admin"]]
    wanted = {line.partition(";")[0].strip() for line in declared} - {"exclave[controller]"}
    ours = {f"{one.project}>={one.least}" if one.least else one.project for one in (*AGENT, TOMLI, *OTHERS)}
    assert {line.partition(">=")[0] if line.startswith("netifaces") else line for line in wanted} == ours


def test_this_environment_has_them_all() -> None:
    check_packages()


def test_all_missing_packages_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in ("trio", "dns") else object())
    with pytest.raises(HostError) as refused:
        check_packages()
    assert (refused.value.fault, refused.value.message, refused.value.hint) == (
        Fault.PACKAGE_MISSING,
        "Python packages are missing: trio, dns",
        "apt install python3-trio python3-dnspython; on Fedora: dnf install python3-trio python3-dns",
    )


def test_an_old_package_is_named_with_the_version_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(packages.metadata, "version", lambda name: "0.21.0" if name == "trio" else real(name))
    with pytest.raises(HostError) as refused:
        check_packages()
    assert refused.value.message == "Python packages are too old: trio 0.21.0 (needed: 0.22 or later)"


def test_a_version_that_is_not_recorded_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "version", unknown)
    check_packages()


@pytest.mark.parametrize(
    ("version", "least", "older"),
    [
        ("0.21.9", "0.22", True),
        ("0.22", "0.22", False),
        ("0.22.0", "0.22", False),
        ("1.0", "0.23.3", False),
        ("38.0.4", "38.0.4", False),
        ("4.1.0rc1", "4.1", False),
        ("", "", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, least: str, older: bool) -> None:
    assert is_older(version, least) is older


def imported(statement: str) -> ImportError:
    with pytest.raises(ImportError) as failed:
        exec(statement)
    return failed.value


def test_a_failed_import_names_the_package() -> None:
    missing = missing_package(ModuleNotFoundError("No module named 'yaml.parser'", name="yaml.parser"))
    assert missing is not None
    assert (missing.message, missing.hint) == (
        "Python package is missing: yaml",
        "apt install python3-yaml; on Fedora: dnf install python3-pyyaml",
    )
    unknown = missing_package(imported("import nobody_wrote_this"))
    assert unknown is not None
    assert unknown.hint == "apt install python3-nobody-wrote-this; on Fedora: dnf install python3-nobody-wrote-this"
    other = missing_package(imported("from trio import nobody_wrote_this"))
    assert other is not None
    assert other.message.startswith(
        "Python package trio cannot be used (needed: 0.22 or later): cannot import name 'nobody_wrote_this' from 'trio'"
    )


def test_a_failed_import_of_our_own_is_a_bug() -> None:
    assert missing_package(imported("import exclave.nobody_wrote_this")) is None
    assert missing_package(ImportError("no name")) is None


@pytest.mark.parametrize("words", [["run"], ["join", "x"], ["explain", "10.0.0.1:80"], ["leave"]])
def test_a_command_without_a_package_has_its_code_and_no_traceback(words: list[str]) -> None:
    """Run with only Python's own library and exclave's folder."""
    program = (
        f"import os, sys; sys.path[:0] = [{str(TOP / 'agent')!r}]; os.geteuid = lambda: 0; "
        f"from exclave.cli.main import main; sys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (36, 2), done.stderr
    assert done.stderr.startswith("exclave: Python package")
    assert "python3-trio" in done.stderr


def test_on_python_3_10_a_missing_tomli_has_its_code_and_no_traceback() -> None:
    program = (
        f"import sys; sys.path[:0] = [{str(TOP / 'agent')!r}]; sys.version_info = (3, 10, 0, 'final', 0); "
        "from exclave.cli.main import main; sys.exit(main(['status']))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        36,
        "exclave: Python package is missing: tomli\n"
        "  to do: apt install python3-tomli; on Fedora: dnf install python3-tomli\n",
    )
