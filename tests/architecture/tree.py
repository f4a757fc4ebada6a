"""The source as the architecture rules see it."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "agent"
PACKAGE = SOURCE / "exclave"


@dataclass(frozen=True)
class Import:
    """One imported module name, and whether only the type checker sees it."""

    module: str
    line: int
    typing_only: bool


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
        """The subject it belongs to: `redirect` for exclave.redirect.nft, None for exclave.daemon."""
        parts = self.name.split(".")
        is_folder = self.path.name == "__init__.py" and len(parts) == 2
        return parts[1] if len(parts) > 2 or is_folder else None

    @cached_property
    def has_async(self) -> bool:
        return any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        hidden = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        found = []
        for node in ast.walk(self.tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
                names = [_target(node.module or "", alias.name) for alias in node.names]
            found += [Import(name, node.lineno, id(node) in hidden) for name in names]
        return found


def _target(module: str, name: str) -> str:
    """`from exclave.kit import wall` names the module exclave.kit.wall; other imports name what they come from."""
    candidate = f"{module}.{name}"
    path = SOURCE / Path(*candidate.split("."))
    return candidate if path.with_suffix(".py").exists() or (path / "__init__.py").exists() else module


def _name(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name: Module(name, path) for path in sorted(PACKAGE.rglob("*.py")) for name in [_name(path)]}
