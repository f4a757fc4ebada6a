"""A module fits on a few screens, a function on one."""

import ast

import pytest

from architecture.tree import MODULES, TOP, Module

MOST_LINES = 600
MOST_FUNCTION_LINES = 60


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_a_module_has_at_most_600_lines(module: Module) -> None:
    assert module.text.count("\n") <= MOST_LINES


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_a_function_has_at_most_60_lines(module: Module) -> None:
    long = [
        f"{module.path}:{node.lineno}: {node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert not long


def test_a_test_module_has_at_most_600_lines() -> None:
    long = [path for path in (TOP / "tests").rglob("*.py") if path.read_text().count("\n") > 600]
    assert not long
