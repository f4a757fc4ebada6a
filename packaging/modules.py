"""The files of this project's code that a program needs: its module and whatever it imports, at whatever time."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = "exclave"


def needed_files(source: Path, module: str, *, without: tuple[str, ...] = ()) -> list[Path]:
    """Files below `source`, which contains the package. `without`: packages that are not followed."""
    needed: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(source, name)
        if name in needed or path is None or any(f"{name}.".startswith(f"{one}.") for one in without):
            continue
        needed[name] = path
        waiting += [*_parents(name), *_imported(path)]
    folders = {path.parent for path in needed.values() if path.name == "__init__.py"}
    data = [path for folder in folders for path in folder.iterdir() if path.suffix in (".yaml", ".typed")]
    return sorted([*needed.values(), *data])


def _file_of(source: Path, name: str) -> Path | None:
    base = source.joinpath(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _parents(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words))]


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == ROOT)
