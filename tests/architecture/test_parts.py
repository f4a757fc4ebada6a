"""What runs in an agent starts again by itself when it fails, unless it is listed with the reason why it may not."""

import ast

import pytest

from architecture.allowed import UNSUPERVISED
from architecture.tree import MODULES, Module

FOLDERS = {
    "cluster", "confirm", "dns", "data_path", "identity", "listing", "member", "proxy", "redirect", "swap",
    "workload_api", "control", "daemon",
}  # fmt: skip
"""Folders and modules of exclave that an agent runs."""


def started(module: Module) -> set[str]:
    """What a module starts in a nursery and does not supervise, by the name of the function."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "start_soon":
            name = ast.unparse(node.args[0]).rpartition(".")[2]
            if name != "supervise":
                found.add(f"{module.name}: {name}")
    return found


AGENT = [module for name, module in MODULES.items() if name.split(".")[1:2] and name.split(".")[1] in FOLDERS]


@pytest.mark.parametrize("module", AGENT, ids=lambda module: module.name)
def test_what_an_agent_starts_is_supervised(module: Module) -> None:
    assert not started(module) - set(UNSUPERVISED), "wrap it in kit.supervise, or list it in allowed.UNSUPERVISED"


def test_what_is_listed_is_there() -> None:
    assert set(UNSUPERVISED) - {name for module in AGENT for name in started(module)} == set()
