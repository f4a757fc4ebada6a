"""R1: a module with `async def` may touch the world; one without computes, or is listed with its reason."""

import ast
from pathlib import Path

import pytest

from architecture.allowed import BLOCKING, PURE_LIBRARIES, VALUES
from architecture.tree import MODULES, PACKAGES, Module

PURE = [
    module
    for module in MODULES.values()
    if not module.has_async
    and module.name not in {*BLOCKING, *VALUES}
    and module.path.name not in ("__init__.py", "__main__.py")
]

FORBIDDEN = {"open", "now", "utcnow", "today", "time", "monotonic", "urandom", "random", "getenv", "input", "print"}
MAKERS_OF_KEYS = {
    "generate_private_key",
    "generate",
    "token_hex",
    "token_bytes",
    "token_urlsafe",
    "choice",
    "randbelow",
}


def _is_pure_import(name: str) -> bool:
    if name.split(".")[0] not in PACKAGES:
        return name.split(".")[0] in PURE_LIBRARIES | {"tomllib", "tomli"}
    module = MODULES[name]
    return name in VALUES or (not module.has_async and name not in BLOCKING)


@pytest.mark.parametrize("module", PURE, ids=lambda module: module.name)
def test_a_module_without_async_imports_pure_modules_only(module: Module) -> None:
    impure = [
        f"{module.path}:{found.line}: imports {found.module}"
        for found in module.imports
        if not _is_pure_import(found.module)
    ]
    assert not impure, "pure modules import pure modules (else list the module in allowed.BLOCKING with its reason)"


@pytest.mark.parametrize("module", PURE, ids=lambda module: module.name)
def test_a_module_without_async_calls_nothing_that_touches_the_world(module: Module) -> None:
    assert not _touching_calls(module), "pass the world in: now, facts, draws, bytes"


def test_the_rule_finds_what_it_forbids(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(
        "import time\n\n\ndef decide(path, now):\n    path.read_text()\n    return open(path), time.time()\n"
    )
    found = {line.split(": ")[1] for line in _touching_calls(Module("sample", source))}
    assert found == {"calls open", "calls read_text", "calls time"}


def _touching_calls(module: Module) -> list[str]:
    own = {node.name for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)}
    return [
        f"{module.path}:{node.lineno}: calls {called}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        for called in [_called(node)]
        if called not in own and _touches(called, isinstance(node.func, ast.Attribute))
    ]


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _touches(called: str, is_method: bool) -> bool:
    if called in FORBIDDEN | MAKERS_OF_KEYS:
        return True
    # A pure module may call a pure function of ours such as `read_csr`, never a method such as `path.read_text`.
    return is_method and called.startswith(("read_", "write_"))


def test_every_listed_module_exists_and_needs_its_place() -> None:
    for name, reason in BLOCKING.items():
        assert name in MODULES, f"{name} is listed and does not exist"
        assert not MODULES[name].has_async, f"{name} has async code and needs no place in the list"
        assert len(reason) > 15, f"{name}: say why"
    assert set(VALUES) <= set(MODULES)
