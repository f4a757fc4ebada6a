"""The source as the architecture rules see it."""

import ast
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "agent"
PACKAGES = ("exclave", "exclave_sandbox")


@dataclass(frozen=True)
class Import:
    """One imported module. `is_class`: everything imported from it is a class."""

    module: str
    line: int
    is_class: bool


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str | None:
        """The subject it belongs to: `redirect` for exclave.redirect.kernel.nft, None for exclave.errors."""
        parts = self.name.split(".")
        if parts[0] == "exclave_sandbox":
            return parts[0]
        is_folder = self.path.name == "__init__.py" and len(parts) == 2
        return parts[1] if len(parts) > 2 or is_folder else None

    @cached_property
    def has_async(self) -> bool:
        return any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        found = []
        for node in ast.walk(self.tree):
            names: list[str] = []
            is_class = False
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
                names = [_target(node.module or "", alias.name) for alias in node.names]
                is_class = all(alias.name[0].isupper() and not alias.name.isupper() for alias in node.names)
            found += [Import(name, node.lineno, is_class) for name in names]
        return found


def _target(module: str, name: str) -> str:
    """`from exclave.kit.host import files` names that module; other imports name the module they come from."""
    candidate = f"{module}.{name}"
    path = SOURCE / Path(*candidate.split("."))
    return candidate if path.with_suffix(".py").exists() or (path / "__init__.py").exists() else module


def _name(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _name(path): Module(_name(path), path) for package in PACKAGES for path in sorted((SOURCE / package).rglob("*.py"))
}


def room_of(name: str) -> str:
    """The room of a module: its folder, or the module itself where it lies loose in the package."""
    package, *rest = name.split(".")
    return rest[0] if package == "exclave" and rest else package


def upward_imports(module: Module, layers: Sequence[str]) -> list[str]:
    """The imports of a module that go to a higher room, each with its place. `layers`: rooms, the lowest first."""
    if module.name == "exclave":
        return []
    own = layers.index(room_of(module.name))
    return [
        f"{module.path}:{found.line}: imports {found.module}"
        for found in module.imports
        if found.module in MODULES and found.module != "exclave" and layers.index(room_of(found.module)) > own
    ]


def find_circles(imports: Mapping[str, Set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules that reach each other, each sorted. `imports`: module → what it imports; others are ignored."""
    reached = {name: _reached_from(name, imports) for name in imports}
    circles = {
        tuple(sorted({name, *(other for other in reached[name] if name in reached[other])}))
        for name in imports
        if name in reached[name]
    }
    return sorted(circle for circle in circles if len(circle) > 1)


def _reached_from(start: str, imports: Mapping[str, Set[str]]) -> set[str]:
    reached: set[str] = set()
    todo = [start]
    while todo:
        for name in imports[todo.pop()]:
            if name in imports and name not in reached:
                reached.add(name)
                todo.append(name)
    return reached
