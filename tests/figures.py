"""Prints figures of the code: `./tests/run --figures`. Ends with 1 if one is over its limit.

Layers, import circles and folders are those of tests/architecture, which fails on some of them; this prints them all.
"""

import ast
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

from architecture.allowed import LAYERS  # noqa: E402
from architecture.test_purity import PURE  # noqa: E402
from architecture.tree import MODULES, PACKAGES, SOURCE, Module, find_circles, upward_imports  # noqa: E402

MOST_LOOSE = 4
MOST_FLAT = 14

PRIVATE_WORDS = {
    *("tell", "tells", "told", "say", "says", "said", "look", "looks", "looked", "see", "sees", "seen"),
    *("keep", "keeps", "kept", "keeper", "carry", "carries", "carrier", "give", "gives", "given"),
    *("take", "takes", "taken", "know", "knows", "known", "beat", "beats"),
    *("news", "whereabouts", "teller", "desk", "undone", "tidy", "strange"),
}
"""Words that have no meaning of their own in this field: a reader has to guess it."""

FIELD_TERMS = ("keep_alive", "known_hosts")
"""Terms of the field with such a word."""

HEAVY = ("trio", "httpx")
"""Libraries that a module without `async def` does not need."""


@dataclass(frozen=True)
class Figure:
    """One line of the output. `over`: it is beyond its limit. `details` are printed below it."""

    name: str
    value: object
    over: bool = False
    details: Sequence[str] = field(default=())

    def lines(self) -> Iterator[str]:
        """As text."""
        yield f"{'!' if self.over else ' '} {self.name:44}{self.value}"
        yield from (f"      {detail}" for detail in self.details)


def main() -> int:
    """Print all."""
    figures = [figure for figures in (sizes, folders, imports, names, loads, tests) for figure in figures()]
    for figure in figures:
        print(*figure.lines(), sep="\n")
    return 1 if any(figure.over for figure in figures) else 0


# Sizes.


def sizes() -> Iterator[Figure]:
    modules = {name: module.text.count("\n") for name, module in MODULES.items() if not _is_init(module)}
    functions = {
        f"{name}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, module in MODULES.items()
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for package in PACKAGES:
        lines = [count for name, count in modules.items() if name.split(".")[0] == package]
        yield Figure(f"modules of {package}", f"{len(lines)}, {sum(lines)} lines")
    for what, counts in (("module", modules), ("function", functions)):
        longest = max(counts, key=counts.__getitem__)
        yield Figure(f"lines of a {what}", f"median {statistics.median(counts.values()):g}")
        yield Figure(f"longest {what}", f"{counts[longest]} ({longest})")
    texts = [module.text for module in MODULES.values()]
    total = sum(text.count("\n") for text in texts)
    comments, docstrings = sum(map(comment_lines, texts)), sum(map(docstring_lines, texts))
    yield Figure(
        "comment lines per 100 lines", f"{100 * comments / total:.1f}, docstrings {100 * docstrings / total:.1f}"
    )


def comment_lines(text: str) -> int:
    """Lines that have a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def docstring_lines(text: str) -> int:
    """Lines of texts that stand alone: of modules, classes, functions and constants."""
    texts = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    return sum(
        (one.end_lineno or 0) - one.lineno + 1
        for one in texts
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )


# Folders.


def folders() -> Iterator[Figure]:
    lines, files = Counter[str](), Counter[str]()
    for module in MODULES.values():
        folder = str(module.path.relative_to(SOURCE).parent)
        lines[folder] += module.text.count("\n")
        files[folder] += not _is_init(module)
    yield Figure("lines by folder", "", details=[f"{name:34}{count:6}" for name, count in sorted(lines.items())])
    loose = [path.name for path in (SOURCE / "exclave").glob("*.py") if not path.name.startswith("__")]
    yield Figure(f"loose modules in exclave (≤ {MOST_LOOSE})", len(loose), len(loose) > MOST_LOOSE, sorted(loose))
    folder, most = files.most_common(1)[0]
    yield Figure(f"most modules in one folder (≤ {MOST_FLAT})", f"{most} ({folder})", most > MOST_FLAT)


# Imports.


def imports() -> Iterator[Figure]:
    circles = find_circles({name: {found.module for found in module.imports} for name, module in MODULES.items()})
    yield Figure("import circles (0)", len(circles), bool(circles), [" ↔ ".join(circle) for circle in circles])
    upward = [line for module in MODULES.values() for line in upward_imports(module, LAYERS)]
    yield Figure("imports of a higher layer (0)", len(upward), bool(upward), upward)


# Names.


def names() -> Iterator[Figure]:
    found = [
        f"{name}: {identifier}"
        for name, module in MODULES.items()
        for identifier in sorted({*name.split(".")[-1:], *identifiers(module.tree)})
        if PRIVATE_WORDS.intersection(words_of(identifier))
    ]
    yield Figure("private words in identifiers (0)", len(found), bool(found), found)


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Names of classes, functions, methods, parameters and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def words_of(identifier: str) -> list[str]:
    """The words of `_find_sshd` or `FindSSHServer`, in lower case."""
    for term in FIELD_TERMS:
        identifier = identifier.replace(term, term.replace("_", ""))
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


# What an import loads.


def loads() -> Iterator[Figure]:
    libraries = libraries_of([module.name for module in PURE])
    heavy = sorted(name for name, loaded in libraries.items() if not set(HEAVY).isdisjoint(loaded))
    yield Figure(f"pure modules that load {' or '.join(HEAVY)} (0)", f"{len(heavy)} of {len(PURE)}", bool(heavy), heavy)
    counts = Counter(", ".join(loaded) or "nothing" for loaded in libraries.values())
    rows = [f"{count:4} load {what}" for what, count in counts.most_common()]
    yield Figure("libraries that pure modules load", "", details=rows)


def libraries_of(modules: Sequence[str]) -> dict[str, list[str]]:
    """The libraries, besides Python's own, that importing each module loads."""
    command = [sys.executable, "-I", TOP / "tests" / "loaded_libraries.py", SOURCE, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


# Tests.


def tests() -> Iterator[Figure]:
    code = sum(module.text.count("\n") for module in MODULES.values())
    lines = {path: path.read_text().count("\n") for path in (TOP / "tests").rglob("*.py")}
    helpers = sum(count for path, count in lines.items() if not path.name.startswith("test_"))
    yield Figure("test lines", f"{sum(lines.values())}, of them {helpers} of helpers")
    yield Figure("test lines per code line", f"{sum(lines.values()) / code:.2f}")


def _is_init(module: Module) -> bool:
    return module.path.name == "__init__.py"


if __name__ == "__main__":
    sys.exit(main())
