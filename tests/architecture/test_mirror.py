"""tests/ mirrors agent/exclave/, and tests/sandbox mirrors agent/exclave_sandbox/."""

import pytest

from architecture.allowed import WITHOUT_TEST_FILE
from architecture.tree import MODULES, TOP, Module


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES.values() if module.path.name != "__init__.py"],
    ids=lambda module: module.name,
)
def test_a_module_has_a_test_file_of_its_name(module: Module) -> None:
    if module.name in WITHOUT_TEST_FILE:
        return
    package, *parts = module.name.split(".")
    if package == "exclave_sandbox":
        parts = ["sandbox", *parts]
    expected = TOP.joinpath("tests", *parts[:-1], f"test_{parts[-1]}.py")
    assert expected.exists(), f"write {expected.relative_to(TOP)}"


def test_every_exception_exists() -> None:
    assert set(WITHOUT_TEST_FILE) <= set(MODULES)
