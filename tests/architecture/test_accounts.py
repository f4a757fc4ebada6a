"""The name service of users and groups may block for minutes, so `kit.host.accounts` alone asks it, in a thread."""

import ast
from pathlib import Path

import pytest

from architecture.tree import MODULES, Module

DOOR = "exclave.kit.host.accounts"

ASKS = {"pwd", "grp"}
CALLS = {"chown": "shutil", "owner": None, "username": None}
"""Calls that ask the name service inside of a library: the name, and the module where only one is meant."""

AGENT = [module for name, module in MODULES.items() if name.startswith("exclave.") and name != DOOR]


def lookups(module: Module) -> list[str]:
    """What a module asks the name service with, each with its line."""
    found = [f"{each.line}: imports {each.module}" for each in module.imports if each.module in ASKS]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
            owner = CALLS[node.func.attr]
            if owner is None or ast.unparse(node.func.value) == owner:
                found.append(f"{node.lineno}: calls {ast.unparse(node.func)}")
    return found


@pytest.mark.parametrize("module", AGENT, ids=lambda module: module.name)
def test_users_and_groups_are_looked_up_in_one_place(module: Module) -> None:
    assert not lookups(module), f"use {DOOR}, which asks in a thread and for a limited time"


def test_the_rule_finds_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import pwd\nfrom grp import getgrnam\nshutil.chown(path, 'x')\nos.chown(path, 1, 1)\npath.owner()\n"
    )
    assert sorted(lookups(Module("sample", path))) == [
        "1: imports pwd",
        "2: imports grp",
        "3: calls shutil.chown",
        "5: calls path.owner",
    ]
