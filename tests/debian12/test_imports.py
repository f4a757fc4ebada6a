"""Every module can be imported with the libraries at hand; tests/run calls this with Debian 12's versions of them."""

import importlib
import pkgutil
import sys
from importlib.metadata import version
from pathlib import Path

import netifaces
import pytest

import exclave
import exclave_sandbox

MODULES = [
    "exclave",
    *(found.name for found in pkgutil.walk_packages(exclave.__path__, "exclave.")),
    *(found.name for found in pkgutil.walk_packages(exclave_sandbox.__path__, "exclave_sandbox.")),
]
CONSTRAINTS = Path(__file__).parents[1] / "debian12.txt"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_imports(name: str) -> None:
    importlib.import_module(name)


def test_the_environment_named_after_debian_12_holds_its_versions() -> None:
    if Path(sys.prefix).name != ".venv-debian12":
        return  # with the newest libraries there is nothing to hold
    lines = [line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines()]
    wanted = dict(line.split("==") for line in lines if line)
    assert {name: version(name) for name in wanted} == wanted
    assert not Path(netifaces.__file__).is_relative_to(sys.prefix), "Debian's own netifaces, not that of PyPI"
