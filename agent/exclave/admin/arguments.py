"""The shape of the admin's command line: subjects, verbs, and the options that several verbs share.

Each subject's module has `add_commands(subparsers)`. A verb's function gets the Session and the parsed options, and
returns an exit code.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exclave.admin.session import Session
from exclave.admin.tables import OUTPUT_FORMATS
from exclave.errors import UsageError

Verb = Callable[[Session, argparse.Namespace], int]
Subparsers = Any  # the result of `add_subparsers`: argparse has no public name for it

# The name of the admin's commands in examples and hints, under any name of the program.
PROGRAM = "kubectl exclave"


def add_common(parser: argparse.ArgumentParser, *, default: str | None = argparse.SUPPRESS) -> None:
    """Add the options of every verb. Below the top parser, an absent option must not override an earlier one."""
    common = parser.add_argument_group("options of every command")
    for flags, metavar, summary in (
        (("--context",), "NAME", "the context to use"),
        (("--kubeconfig",), "FILE", "the kubeconfig file"),
        (("-n", "--namespace"), "NAME", "the group's namespace; default: the context's"),
    ):
        common.add_argument(*flags, default=default, metavar=metavar, help=summary)
    common.add_argument("--as", dest="as_user", default=default, metavar="USER", help="the user to impersonate")
    common.add_argument(
        "--as-group", action="append", default=default, metavar="GROUP", help="a group to impersonate; repeatable"
    )


def add_subject(subparsers: Subparsers, name: str, summary: str) -> Subparsers:
    """Add a subject such as `group`; returns the subparsers of its verbs."""
    parser = subparsers.add_parser(name, help=summary, description=_sentence(summary))
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_verb(subparsers: Subparsers, name: str, run: Verb, summary: str, *examples: str) -> argparse.ArgumentParser:
    """Add a verb with its help, which ends with the examples. An example may start with a comment line."""
    lines = [f"  {line}" for example in examples for line in example.split("\n")]
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=_sentence(summary),
        epilog="\n".join(["examples:", *lines]) if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    parser.set_defaults(run=run)
    return parser


def add_list(verbs: Subparsers, run: Verb, what: str, *examples: str) -> argparse.ArgumentParser:
    """Add the verb `list`, with `-A` and `-o`."""
    parser = add_verb(verbs, "list", run, f"list {what}", *examples)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    add_output(parser)
    return parser


def add_describe(verbs: Subparsers, run: Verb, summary: str, example: str) -> None:
    """Add the verb `describe`, of one object, with `-o`."""
    parser = add_verb(verbs, "describe", run, summary, example)
    parser.add_argument("name", metavar="NAME")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser, *forms: str) -> None:
    """Add `-o`."""
    allowed = forms or OUTPUT_FORMATS
    parser.add_argument("-o", "--output", choices=allowed, metavar="FORM", help=f"output format: {', '.join(allowed)}")


def add_controller_namespace(parser: argparse.ArgumentParser) -> None:
    """Add `--controller-namespace`."""
    parser.add_argument(
        "--controller-namespace", default="exclave", metavar="NAME", help="exclave's namespace; default: exclave"
    )


def add_namespaces(parser: argparse.ArgumentParser, linkerd: str = "as installed") -> None:
    """Add `--controller-namespace` and `-L`; `linkerd` is the default in the help."""
    add_controller_namespace(parser)
    parser.add_argument("-L", "--linkerd-namespace", metavar="NAME", help=f"Linkerd's namespace; default: {linkerd}")


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add `--dry-run`."""
    parser.add_argument("--dry-run", action="store_true", help="print the objects as YAML and change nothing")


def parse_groups(options: Sequence[str] | None) -> list[str]:
    """The groups of `--as-group`. `linkerd check` passes several groups as one text, `[a,b]`."""
    return [group for text in options or () for group in text.removeprefix("[").removesuffix("]").split(",") if group]


def load_file(option: str, path: Path) -> bytes:
    """The bytes of the file that an option names. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UsageError(f"{option} {path}: {problem.strerror}", "name a PEM file") from None


def load_pem(option: str, path: Path) -> str:
    """The text of the file that an option names. Raises UsageError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        why = getattr(problem, "strerror", None) or "it is not text"
        raise UsageError(f"{option} {path}: {why}", "name a PEM file") from None


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
