"""The order of the rooms: imports go down, never up and never round in a circle. Imports for types count, too."""

import pytest

from architecture.allowed import LAYERS
from architecture.tree import MODULES, Module, find_circles, room_of, upward_imports


def test_every_room_has_a_place_in_the_order() -> None:
    rooms = {room_of(name) for name in MODULES if name != "exclave"}
    assert rooms == set(LAYERS), "add the room to LAYERS in allowed.py, above everything that it imports"


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_a_module_imports_no_higher_room(module: Module) -> None:
    assert not upward_imports(module, LAYERS), "move what both need down, or hand it in as a parameter"


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_circles({name: {found.module for found in module.imports} for name, module in MODULES.items()}) == []


def test_no_import_is_for_the_type_checker_alone() -> None:
    hidden = [module.name for module in MODULES.values() if "TYPE_CHECKING" in module.text]
    assert not hidden, "an import that only types need is an import: it obeys the order, and stands at the top"


def test_the_rule_finds_a_circle() -> None:
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": {"b", "trio"}, "d": {"a", "d"}}) == [("b", "c")]
