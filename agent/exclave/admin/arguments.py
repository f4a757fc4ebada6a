"""The shape of the admin's command line: subjects, verbs, and the options that every verb takes.

Rules: a module of a subject has `add_commands(subparsers)` and makes its parsers with `add_subject` and `add_verb`, so
that all look alike; a verb's function takes the `Desk` and the parsed options and returns an exit code. The options of
every verb may stand before the subject or after the verb. Help ends with worked examples.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from exclave.admin.session import Session
from exclave.admin.tables import OUTPUT_FORMATS

Verb = Callable[[Session, argparse.Namespace], int]
Subparsers = Any
"""What `add_subparsers` returns: argparse has no public name for it."""

PROGRAM = "kubectl exclave"
"""How the admin's commands are named in examples and hints, whatever they were called by this time."""


def add_common(parser: argparse.ArgumentParser, *, default: str | None = argparse.SUPPRESS) -> None:
    """Give a parser the options that every verb takes; below the top they say nothing if they are not given."""
    common = parser.add_argument_group("options of every command")
    common.add_argument("--context", default=default, metavar="NAME", help="a context of the kubeconfig")
    common.add_argument("--kubeconfig", default=default, metavar="FILE", help="as kubectl takes it")
    common.add_argument(
        "-n", "--namespace", default=default, metavar="NAME", help="the group's; the context's, if absent"
    )
    common.add_argument(
        "--as", dest="as_user", default=default, metavar="USER", help="whom to impersonate, as kubectl takes it"
    )
    common.add_argument(
        "--as-group", action="append", default=default, metavar="GROUP", help="groups of whom is impersonated"
    )


def add_subject(subparsers: Subparsers, name: str, told: str) -> Subparsers:
    """A subject such as `group`; returns what its verbs are added to."""
    parser = subparsers.add_parser(name, help=told, description=_sentence(told))
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_verb(subparsers: Subparsers, name: str, run: Verb, told: str, *examples: str) -> argparse.ArgumentParser:
    """A verb with its help; an example may hold a comment line before it."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=told,
        description=_sentence(told),
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    parser.set_defaults(run=run)
    return parser


def add_output(parser: argparse.ArgumentParser, *forms: str) -> None:
    """Give a verb `-o`."""
    allowed = forms or OUTPUT_FORMATS
    parser.add_argument("-o", "--output", choices=allowed, metavar="FORM", help=f"{', '.join(allowed)}")


def add_all_namespaces(parser: argparse.ArgumentParser) -> None:
    """Give a verb `-A`."""
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="look in every namespace")


def parse_groups(told: Sequence[str] | None) -> list[str]:
    """The groups of `--as-group`; Linkerd's program hands them on in one list, as `[a,b]`."""
    return [group for text in told or () for group in text.removeprefix("[").removesuffix("]").split(",") if group]


def _sentence(told: str) -> str:
    return told[0].upper() + told[1:] + "."


def _examples(examples: tuple[str, ...]) -> str | None:
    if not examples:
        return None
    return "examples:\n" + "\n".join(f"  {line}" for example in examples for line in example.split("\n"))
