"""The command lines of exclave's programs, from their own parsers."""

import argparse
import importlib
import sys
from collections.abc import Iterator
from unittest import mock

from architecture.tree import TOP

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _ParserFound(SystemExit):
    """Ends a program before it does anything."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser of a program that pyproject.toml names."""
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts[program].partition(":")
    main = getattr(importlib.import_module(module), function)

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _ParserFound(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _ParserFound as found:
            return found.parser
    raise AssertionError(f"{program} parses no command line")


def commands(parser: argparse.ArgumentParser, before: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Each command, such as `group create`, with its long options; hidden ones are left out."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        options = {word for action in parser._actions for word in action.option_strings if word.startswith("--")}
        yield " ".join(before), options - {"--help"}
    for action in below:
        for name, one in action.choices.items():
            if not name.startswith("_"):
                yield from commands(one, (*before, name))
