"""Text leaves a process through one door, which makes the text of machines and servers visible."""

import ast

import pytest

from architecture.allowed import COMPOSES_TEXT, OUTPUT
from architecture.tree import MODULES, Module

STREAMS = ("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__")
PRINTERS = ("print", "logging.StreamHandler", "logging.FileHandler", "logging.Formatter", "traceback.print_exc")

PRODUCT = [module for module in MODULES.values() if module.name.startswith("exclave.")]


def uses(module: Module, names: tuple[str, ...]) -> list[str]:
    """The places that use one of these names. `print` counts as a name, not as an attribute."""
    return [
        f"{module.path}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in names
    ]


@pytest.mark.parametrize("module", PRODUCT, ids=lambda module: module.name)
def test_only_the_door_writes_to_the_streams(module: Module) -> None:
    found = uses(module, (*STREAMS, *PRINTERS))
    if module.name in OUTPUT:
        assert found, "it writes no more: remove it from OUTPUT"
    else:
        assert not found, "print with exclave.kit.host.output; log with a logger"


@pytest.mark.parametrize("module", PRODUCT, ids=lambda module: module.name)
def test_no_other_module_declares_a_text_to_be_visible(module: Module) -> None:
    calls = [
        f"{module.path}:{node.lineno}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "VisibleText"
    ]
    if module.name in COMPOSES_TEXT:
        assert calls, "it composes no text any more: remove it from COMPOSES_TEXT"
    else:
        assert not calls, "use visible, join_lines or with_head"


def test_the_rule_finds_what_it_is_for() -> None:
    class Sample:
        path = "sample.py"
        tree = ast.parse("print(1)\nsys.stderr.write('x')\nself.print(2)\nlogging.StreamHandler()")

    assert uses(Sample(), (*STREAMS, *PRINTERS)) == [  # type: ignore[arg-type]
        "sample.py:1: print",
        "sample.py:4: logging.StreamHandler",
        "sample.py:2: sys.stderr",
    ]


def test_every_exception_exists() -> None:
    assert OUTPUT.keys() | COMPOSES_TEXT.keys() <= MODULES.keys()
