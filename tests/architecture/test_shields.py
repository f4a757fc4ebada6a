"""A shield has a limit, so that nothing keeps a program from ending: `shielded` makes all of them."""

import ast
from pathlib import Path

import pytest

from architecture.tree import MODULES, TOP

HELPER = "exclave.kit.tasks.nursery"

SOURCES = sorted([module.path for name, module in MODULES.items() if name != HELPER] + [*TOP.glob("tests/**/*.py")])


def own_shields(tree: ast.Module) -> list[int]:
    """The lines where a shield is made without the helper: by a keyword, or by setting an attribute."""
    keywords = [node.value.lineno for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "shield"]
    attributes = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "shield" and isinstance(node.ctx, ast.Store)
    ]
    return sorted(keywords + attributes)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP)))
def test_every_shield_has_a_limit(path: Path) -> None:
    assert not own_shields(ast.parse(path.read_text(encoding="utf-8"))), f"use {HELPER}.shielded(seconds)"


def test_the_rule_finds_what_it_forbids() -> None:
    source = """
with trio.CancelScope(shield=True):
    pass
with trio.move_on_after(5, shield=is_last):
    pass
scope.shield = True
with shielded(5):
    print(scope.shield)
"""
    assert own_shields(ast.parse(source)) == [2, 4, 6]
