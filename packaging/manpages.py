"""Man pages of commands, from their argparse parsers, in roff (man(7)). Pure."""

import argparse
import time
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType


def command_page(
    parser: argparse.ArgumentParser,
    section: int,
    date: int,
    *,
    without: tuple[str, ...] = (),
    exit_status: Mapping[int, str] = MappingProxyType({}),
    files: Mapping[str, str] = MappingProxyType({}),
    see_also: tuple[str, ...],
) -> str:
    """The page of a program with subcommands. `date`: epoch seconds. `without`: commands that it leaves out."""
    name = parser.prog
    day = time.strftime("%Y-%m-%d", time.gmtime(date))
    commands = [_command(words, inner, parser) for words, inner in _commands(parser, (), without)]
    lines = [
        f'.TH {_roff(name.upper())} {section} {day} "exclave" "exclave"',
        *(".SH NAME", f"{_roff(name)} \\- {_roff(_uncapitalized(parser.description or ''))}"),
        *(".SH SYNOPSIS", f".B {_roff(name)}", r".I COMMAND", r"[\fIOPTION\fR ...]"),
        *(".SH DESCRIPTION", _roff(parser.description or "")),
        *(".SH OPTIONS", *_options(parser)),
        *(".SH COMMANDS", *(line for command in commands for line in command)),
        *([".SH EXAMPLES", *as_written(parser.epilog)] if parser.epilog else []),
        *_list("EXIT STATUS", {str(code): text for code, text in exit_status.items()}),
        *_list("FILES", files),
        *(".SH SEE ALSO", _roff(", ".join(see_also))),
    ]
    return "\n".join(lines) + "\n"


def _commands(
    parser: argparse.ArgumentParser, before: tuple[str, ...], without: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that can be run, with its words."""
    for action in parser._actions:  # argparse has no public access to its tree
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                if name in without or name.startswith("_"):
                    continue
                deeper = list(_commands(inner, (*before, name), ()))
                yield from deeper or [((*before, name), inner)]


def _command(words: tuple[str, ...], parser: argparse.ArgumentParser, whole: argparse.ArgumentParser) -> list[str]:
    common = {name for action in whole._actions for name in action.option_strings}
    options = _options(parser, common)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines = [f".SS {_roff(' '.join(words))}", _roff(parser.description or ""), *(".PP", _roff(usage)), *options]
    return [*lines, *as_written(parser.epilog)] if parser.epilog else lines


def _options(parser: argparse.ArgumentParser, common: Collection[str] = ()) -> list[str]:
    """The arguments and options, without `common` ones."""
    lines = []
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        if action.option_strings and set(action.option_strings) <= set(common):
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        lines += [".TP", f".B {_roff(names + value)}", _roff(text)]
    return lines


def _list(title: str, rows: Mapping[str, str]) -> list[str]:
    if not rows:
        return []
    return [f".SH {title}", *(line for key, text in rows.items() for line in (".TP", f".B {_roff(key)}", _roff(text)))]


def as_written(text: str) -> list[str]:
    """Text with its own lines."""
    return [".PP", ".nf", *(_roff(line) for line in text.rstrip().splitlines()), ".fi"]


def _uncapitalized(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


def _roff(text: str) -> str:
    """Escape text for roff: a backslash, a hyphen, and a dot or quote at the start are commands."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
