"""Text constants and calls in the code, by module."""

import ast
from collections.abc import Iterator
from functools import cache

from architecture.tree import MODULES, Module


def agent_modules(*folders: str) -> list[Module]:
    """The modules of exclave, all or those whose name begins with one of these; never the sandbox's."""
    return [
        module
        for name, module in MODULES.items()
        if not name.startswith("exclave_sandbox")
        and (not folders or any(name == folder or name.startswith(f"{folder}.") for folder in folders))
    ]


def texts(modules: list[Module]) -> set[str]:
    """Every text constant; documentation, types and lists of exported names are left out."""
    return {text for module in modules for text in _texts(module.name)}


def first_arguments(modules: list[Module], called: str) -> set[str]:
    """The first argument of each call of this name, where it is a text."""
    return {
        node.args[0].value
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == called and node.args
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }


def keys_of_table(modules: list[Module], *known: str) -> set[str]:
    """The keys of the one dictionary in the code that has these keys among others."""
    found = [
        keys
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Dict)
        for keys in [{key.value for key in node.keys if isinstance(key, ast.Constant)}]
        if keys >= set(known)
    ]
    assert len(found) == 1, f"one table with {', '.join(known)} was expected, found {len(found)}"
    return {str(key) for key in found[0]}


@cache
def _texts(module: str) -> frozenset[str]:
    tree = MODULES[module].tree
    left_out = {id(inner) for node in ast.walk(tree) for one in _no_values(node) for inner in ast.walk(one)}
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out
    )


def _no_values(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node in which a text is no value."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value
    elif isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is not None:
        yield node.annotation
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
        yield node.returns
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        yield node.value
