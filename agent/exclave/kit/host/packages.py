"""The Python packages of the agent, by their names in distributions. Runs first, on the standard library alone.

A package that is missing or too old is an error with one line, not a traceback.
"""

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from exclave.errors import Fault, HostError


@dataclass(frozen=True)
class Package:
    """A package. `module` is imported, `project` is its name on PyPI, `least` the oldest version, "" for any."""

    module: str
    project: str
    least: str
    debian: str
    fedora: str


def _package(module: str, project: str, least: str, debian: str, fedora: str = "") -> Package:
    return Package(module, project, least, debian, fedora or debian)


# The versions are those of pyproject.toml.
AGENT = (
    _package("trio", "trio", "0.22", "python3-trio"),
    _package("httpx", "httpx", "0.23.3", "python3-httpx"),
    _package("h2", "h2", "4.1", "python3-h2"),
    _package("cryptography", "cryptography", "38.0.4", "python3-cryptography"),
    _package("jwcrypto", "jwcrypto", "1.0", "python3-jwcrypto"),
    _package("psutil", "psutil", "5.9.4", "python3-psutil"),
    _package("netifaces", "netifaces-plus", "", "python3-netifaces"),  # Debian's is netifaces, with older versions
    _package("dns", "dnspython", "2.3", "python3-dnspython", "python3-dns"),
)
TOMLI = _package("tomli", "tomli", "2.0.1", "python3-tomli")  # before Python 3.11
OTHERS = (
    _package("yaml", "PyYAML", "6.0", "python3-yaml", "python3-pyyaml"),
    _package(
        "prometheus_client", "prometheus_client", "0.16", "python3-prometheus-client", "python3-prometheus_client"
    ),
    _package("shtab", "shtab", "1.5.6", "python3-shtab"),
)
"""Of the controller and the admin's commands."""


def check_packages() -> None:
    """Raise HostError naming all of the agent's packages that are missing or too old."""
    needed = AGENT if sys.version_info >= (3, 11) else (*AGENT, TOMLI)
    missing = [one for one in needed if find_spec(one.module) is None]
    if missing:
        names = ", ".join(one.module for one in missing)
        what = "package is" if len(missing) == 1 else "packages are"
        raise _error(f"Python {what} missing: {names}", missing)
    old = [one for one in needed if (found := _version(one)) and is_older(found, one.least)]
    if old:
        listed = ", ".join(f"{one.module} {_version(one)} (needed: {one.least} or later)" for one in old)
        raise _error(f"Python packages are too old: {listed}", old)


def as_package_error(problem: BaseException) -> HostError | None:
    """The error of a package that is missing or cannot be used; None for any other exception."""
    if isinstance(problem, ImportError):
        return missing_package(problem)
    return problem if isinstance(problem, HostError) and problem.fault is Fault.PACKAGE_MISSING else None


def missing_package(problem: ImportError) -> HostError | None:
    """The error for an import that failed; None if the module is one of exclave itself."""
    module = (problem.name or "").partition(".")[0]
    if not module or module == "exclave":
        return None
    known = next((one for one in (*AGENT, TOMLI, *OTHERS) if one.module == module), None)
    package = known or _package(module, module, "", f"python3-{module.replace('_', '-')}")
    if isinstance(problem, ModuleNotFoundError):
        return _error(f"Python package is missing: {module}", [package])
    needed = f" (needed: {package.least} or later)" if package.least else ""
    return _error(f"Python package {module} cannot be used{needed}: {problem}", [package])


def is_older(version: str, least: str) -> bool:
    """True if a version such as `0.23.3` is lower than `least`. Only its numbers count."""
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"[0-9.]*", version)
    return tuple(int(part) for part in (leading[0] if leading else "").split(".") if part)


def _version(package: Package) -> str | None:
    """The installed version; None if it is not recorded."""
    try:
        return metadata.version(package.project)
    except metadata.PackageNotFoundError:
        return None


def _error(text: str, packages: list[Package]) -> HostError:
    debian, fedora = (" ".join(names) for names in zip(*((one.debian, one.fedora) for one in packages), strict=True))
    return HostError(Fault.PACKAGE_MISSING, text, f"apt install {debian}; on Fedora: dnf install {fedora}")
