"""Finds the markers `root` and `peers` of a test by the words in its code, so that no author has to set them.

The code of its fixtures counts, too, and that of the functions, classes and constants of tests/ that these mention. One
of WORDS in it sets the marker.
"""

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest

TESTS = Path(__file__).resolve().parents[1]

WORDS = {
    "root": {
        *("open_network", "open_stage", "unshare", "'unshare'", "'nsenter'", "'mount'"),  # namespaces and mounts
        *("geteuid", "setuid", "chown", "'setpriv'", "open_folder"),  # to be root, or another user
        "open_dns",  # a port below 1024
    },
    "peers": {"AVAILABLE", "KUBECTL"},
}
"""By marker: words of code that makes namespaces or needs root, and of real servers and kubectl."""

FOLDERS = {"peers": "peers", "real": "real"}
"""By marker: the folder of tests/ whose tests all get it."""

_Mentions = tuple[set[str], list[object]]
_mentions: dict[int, tuple[object, _Mentions]] = {}
"""By id of a function, class or constant. The object is stored, too, so that no other one gets its id."""


def markers_of(item: pytest.Function) -> Iterator[str]:
    """The markers that a test gets."""
    fixtures = [fixture.func for found in item._fixtureinfo.name2fixturedefs.values() for fixture in found]
    words = mentioned_words([item.function, *fixtures])
    folder = item.path.relative_to(TESTS).parts[0]
    for marker, named in FOLDERS.items():
        if folder == named:
            yield marker
    for marker, sought in WORDS.items():
        if not sought.isdisjoint(words):
            yield marker


def mentioned_words(starts: Iterable[object]) -> set[str]:
    """What these functions mention, and what they reach of tests/."""
    words, todo, done = set[str](), list(starts), set[int]()
    while todo:
        one = _unwrapped(todo.pop())
        if id(one) in done:
            continue
        done.add(id(one))
        _, (found, reached) = _mentions.setdefault(id(one), (one, _mentioned_directly(one)))
        words |= found
        todo += reached
    return words


def _mentioned_directly(one: object) -> _Mentions:
    """The words of one thing, and the things that it mentions."""
    if isinstance(one, str):
        return {f"'{word}'" for word in one.split(maxsplit=1)[:1]}, []
    if isinstance(one, (tuple, list)):
        return set(), list(one)
    if isinstance(one, type) and _is_ours(one):
        return set(), list(vars(one).values())
    if isinstance(one, FunctionType) and _is_ours(one):
        return _mentioned_in_code(one)
    return set(), []


def _mentioned_in_code(function: FunctionType) -> _Mentions:
    codes = list(_codes_of(function.__code__))
    names = {name for code in codes for name in (*code.co_names, *code.co_freevars)}
    reached = [each for code in codes for each in code.co_consts if isinstance(each, (str, tuple))]
    reached += [cell.cell_contents for cell in function.__closure__ or ()]
    known = function.__globals__
    modules = [each for name in names if isinstance(each := known.get(name), ModuleType)]
    for scope in (known, *map(vars, modules)):
        reached += [scope[name] for name in names if name in scope]
    return names, reached


def _is_ours(one: FunctionType | type) -> bool:
    """Whether a function or class is defined below tests/."""
    file = one.__code__.co_filename if isinstance(one, FunctionType) else _file_of(one)
    return file.startswith(f"{TESTS}/")


def _file_of(one: type) -> str:
    return getattr(sys.modules.get(one.__module__), "__file__", None) or ""


def _codes_of(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of what is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_of(constant)


def _unwrapped(one: object) -> object:
    """The function of a method, property, cached function or decorated one; else what is given."""
    one = getattr(one, "fget", None) if isinstance(one, property) else getattr(one, "__func__", one)
    return inspect.unwrap(one) if isinstance(one, (FunctionType, functools._lru_cache_wrapper)) else one
