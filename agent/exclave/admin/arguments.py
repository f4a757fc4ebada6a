"""The shape of the admin's command line: subjects, verbs, and the options that every verb takes.

Each subject's module has `add_commands(subparsers)` and makes its parsers with `add_subject` and `add_verb`, so that
all look alike. A verb's function gets the Session and the parsed options, and returns an exit code. The options of
every verb may be before the subject or after the verb. Help ends with examples.
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
"""The name of the admin's commands in examples and hints, whatever the program was called by."""


def add_common(parser: argparse.ArgumentParser, *, default: str | None = argparse.SUPPRESS) -> None:
    """Add the options of every verb. Below the top parser an absent option must not override the one before it."""
    common = parser.add_argument_group("options of every command")
    common.add_argument("--context", default=default, metavar="NAME", help="the context to use")
    common.add_argument("--kubeconfig", default=default, metavar="FILE", help="the kubeconfig file")
    common.add_argument(
        "-n", "--namespace", default=default, metavar="NAME", help="the group's namespace; default: the context's"
    )
    common.add_argument("--as", dest="as_user", default=default, metavar="USER", help="the user to impersonate")
    common.add_argument(
        "--as-group", action="append", default=default, metavar="GROUP", help="a group to impersonate; repeatable"
    )


def add_subject(subparsers: Subparsers, name: str, summary: str) -> Subparsers:
    """Add a subject such as `group`; returns the subparsers of its verbs."""
    parser = subparsers.add_parser(name, help=summary, description=_sentence(summary))
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_verb(subparsers: Subparsers, name: str, run: Verb, summary: str, *examples: str) -> argparse.ArgumentParser:
    """Add a verb with its help. An example may start with a comment line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=_sentence(summary),
        epilog=_examples(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    parser.set_defaults(run=run)
    return parser


def add_output(parser: argparse.ArgumentParser, *forms: str) -> None:
    """Add `-o`."""
    allowed = forms or OUTPUT_FORMATS
    parser.add_argument("-o", "--output", choices=allowed, metavar="FORM", help=f"output format: {', '.join(allowed)}")


def add_all_namespaces(parser: argparse.ArgumentParser) -> None:
    """Add `-A`."""
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")


def add_controller_namespace(parser: argparse.ArgumentParser) -> None:
    """Add `--controller-namespace`."""
    parser.add_argument(
        "--controller-namespace", default="exclave", metavar="NAME", help="exclave's namespace; default: exclave"
    )


def add_linkerd_namespace(parser: argparse.ArgumentParser, default: str = "as installed") -> None:
    """Add `-L`; `default` is for the help."""
    parser.add_argument("-L", "--linkerd-namespace", metavar="NAME", help=f"Linkerd's namespace; default: {default}")


def parse_groups(options: Sequence[str] | None) -> list[str]:
    """The groups of `--as-group`. `linkerd check` passes several in one list, as `[a,b]`."""
    return [group for text in options or () for group in text.removeprefix("[").removesuffix("]").split(",") if group]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _examples(examples: tuple[str, ...]) -> str | None:
    if not examples:
        return None
    return "examples:\n" + "\n".join(f"  {line}" for example in examples for line in example.split("\n"))
