"""R2: folders import each other's pure modules only; composition roots alone open doors."""

import ast

import pytest

from architecture.allowed import BLOCKING, ROOTS
from architecture.tree import MODULES, Module

FREE = {"kit"}
IN_FOLDERS = [module for module in MODULES.values() if module.folder not in (None, *FREE)]
DOORS = [module for module in IN_FOLDERS if module.path.name == "__init__.py"]


@pytest.mark.parametrize(
    "module", [module for module in IN_FOLDERS if module.name not in ROOTS], ids=lambda module: module.name
)
def test_a_folder_imports_only_pure_modules_of_other_folders(module: Module) -> None:
    crossing = []
    for found in module.imports:
        target = MODULES.get(found.module)
        if target is None or found.typing_only or target.folder in (None, module.folder, *FREE):
            continue
        if target.has_async or target.name in BLOCKING or target.path.name == "__init__.py":
            crossing.append(f"{module.path}:{found.line}: imports {found.module}")
    assert not crossing, "import a pure module of that folder, or take what its door yields as a parameter"


@pytest.mark.parametrize("module", DOORS, ids=lambda module: module.name)
def test_an_init_exports_the_door_and_value_types_and_nothing_else(module: Module) -> None:
    for statement in module.tree.body[1:]:
        is_import = isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(module.name + ".")
        is_all = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        assert is_import or is_all, f"{module.path}:{statement.lineno}: {ast.unparse(statement)}"


@pytest.mark.parametrize("folder", sorted({str(module.folder) for module in IN_FOLDERS}))
def test_a_folder_has_at_most_one_door_module(folder: str) -> None:
    doors = {
        module.name
        for module in MODULES.values()
        if module.folder == folder
        for node in module.tree.body
        if isinstance(node, ast.AsyncFunctionDef) and node.name == f"open_{folder}"
    }
    assert len(doors) <= 1, doors
