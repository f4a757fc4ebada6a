"""A secret in a dataclass never shows in its repr, and so in no log, traceback or assertion."""

import ast

import pytest

from architecture.tree import MODULES, Module

SECRET_NAMES = {"token", "key", "key_pem", "private_key", "credential", "secret", "join_token", "delivery_private"}
SECRET_TYPES = ("str", "bytes", "PrivateKey")


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_a_dataclass_hides_its_secrets(module: Module) -> None:
    shown = [
        f"{module.path}:{field.lineno}: {node.name}.{ast.unparse(field.target)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and ast.unparse(field.target) in SECRET_NAMES
        and any(kind in ast.unparse(field.annotation) for kind in SECRET_TYPES)
        and "repr=False" not in (ast.unparse(field.value) if field.value else "")
    ]
    assert not shown, "give it field(repr=False)"
