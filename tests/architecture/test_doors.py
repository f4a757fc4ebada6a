"""R2: folders use each other's pure modules and the parts that doors yield; composition roots alone open doors."""

import ast

import pytest

from architecture.allowed import BLOCKING, ROOTS
from architecture.tree import MODULES, Module

FREE = {"kit"}
IN_FOLDERS = [module for module in MODULES.values() if module.folder not in (None, *FREE)]
PACKAGES = [module for module in MODULES.values() if module.path.name == "__init__.py" and module.name != "exclave"]


@pytest.mark.parametrize(
    "module", [module for module in IN_FOLDERS if module.name not in ROOTS], ids=lambda module: module.name
)
def test_a_folder_imports_only_pure_modules_and_part_types_of_other_folders(module: Module) -> None:
    crossing = []
    for found in module.imports:
        target = MODULES.get(found.module)
        if target is None or target.folder in (None, module.folder, *FREE):
            continue
        if (target.has_async or target.name in BLOCKING) and not found.is_class:
            crossing.append(f"{module.path}:{found.line}: imports {found.module}")
    assert not crossing, "import a pure module of that folder, or take what its door yields as a parameter"


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: module.name)
def test_an_init_holds_its_docstring_and_nothing_else(module: Module) -> None:
    assert ast.get_docstring(module.tree)
    assert len(module.tree.body) == 1, "importing a module must load nothing but what that module needs"


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
