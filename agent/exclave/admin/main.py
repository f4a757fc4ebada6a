"""`kubectl exclave`, also `linkerd exclave` and `exclave admin`: parses the command line, and completes words.

The help uses the called name of the program. Exit codes and errors are printed as by `exclave`.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from exclave import __version__
from exclave.admin.arguments import PROGRAM, Verb, add_common, parse_groups
from exclave.admin.check import verbs as check
from exclave.admin.diagnostics import verbs as diagnostics
from exclave.admin.group import verbs as group
from exclave.admin.install import uninstall
from exclave.admin.install import verbs as install
from exclave.admin.kubectl import Kubectl
from exclave.admin.member import verbs as member
from exclave.admin.rotation import verbs as rotation
from exclave.admin.session import Session
from exclave.admin.token import verbs as token
from exclave.errors import UsageError
from exclave.kit.formats.visible_text import VisibleText
from exclave.kit.host.exit_code import run_command
from exclave.kit.host.output import print_out

SUBJECTS = (install, check, group, token, member, rotation, diagnostics, uninstall)

EXAMPLES = f"""\
from nothing to a machine in the mesh:
  {PROGRAM} install --issuer-from ClusterIssuer/linkerd-trust-anchor
  {PROGRAM} group create web -n shop --network 10.1.0.0/16 --port name=http,port=8080 --label app=web
  {PROGRAM} token create web -n shop
  sudo exclave join                    on the machine; paste the line
  {PROGRAM} member list -n shop

exit status: 0 done; 1 a bug in exclave; 2 wrong command line or request; 3 check or rotation status found
something; 23 the cluster was not reached; 24 the cluster refused
"""

FILES, NO_FILES = 0, 4
"""Whether file names fit, too: cobra's ShellCompDirectiveDefault and ShellCompDirectiveNoFileComp."""

NAMES = {"kubectl-exclave": PROGRAM, "linkerd-exclave": "linkerd exclave"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. `arguments` are those after the program's name."""
    program = NAMES.get(Path(sys.argv[0]).name, "exclave admin")
    options = build_parser(program).parse_args(arguments)
    return run_command(partial(_run, options), in_json=getattr(options, "output", None) == "json")


def _run(options: argparse.Namespace) -> int:
    groups = parse_groups(options.as_group)
    kubectl = Kubectl(options.context, options.kubeconfig, user=options.as_user, groups=groups)
    run: Verb = options.run
    return run(Session(kubectl, options.namespace), options)


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of all commands, for a program of this name."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Manage exclave: virtual machines in a Linkerd mesh.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"exclave {__version__}")
    add_common(parser, default=None)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for subject in SUBJECTS:
        subject.add_commands(subparsers)
    completion = subparsers.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a completion script for kubectl-exclave.",
        epilog="examples:\n  source <(kubectl-exclave completion bash)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(run=_print_completion)
    return parser


def _print_completion(_session: Session, options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        hint = "apt install python3-shtab; on Fedora: dnf install python3-shtab; or pip install 'exclave[admin]'"
        raise UsageError("completion needs the Python library shtab", hint) from None
    called = Path(sys.argv[0]).name
    program = called if called in NAMES else "kubectl-exclave"
    print_out(VisibleText(shtab.complete(build_parser(program), shell=options.shell)))
    return 0


def complete(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], int]:
    """The words that can replace the last one, and the directive."""
    *before, half = words or [""]
    asked: argparse.Action | None = None
    for word in before:
        if asked is not None:
            asked = None  # it is the value of the preceding option
        elif word.startswith("-"):
            asked = _awaiting(_options(parser).get(word))
        elif (inner := _commands(parser).get(word)) is not None:
            parser = inner
    if asked is not None:
        return _fitting(asked.choices or (), half), FILES if asked.metavar == "FILE" else NO_FILES
    if half.startswith("-"):
        return _fitting(_options(parser), half), NO_FILES
    return _fitting(_commands(parser), half), NO_FILES


def complete_for_kubectl() -> int:
    """`kubectl_complete-exclave`: kubectl runs it when the user presses the tab key after `kubectl exclave`.

    The arguments are the words typed so far; the last one may be incomplete. The answer is one word a line, then a
    colon and the directive. The cluster is not queried: the tab key must not wait for a network.
    Source: SetupPluginCompletion in k8s.io/kubectl/pkg/cmd/plugin/plugin_completion.go.
    """
    found, directive = complete(build_parser(PROGRAM), sys.argv[1:])
    print_out(*found, f":{directive}")
    return 0


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # argparse has no public access to its tree; shtab reads it the same way
        if isinstance(action, argparse._SubParsersAction):
            return {name: inner for name, inner in action.choices.items() if not name.startswith("_")}
    return {}


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        name: action
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--") or name in ("-n", "-o", "-A", "-L")
    }


def _awaiting(action: argparse.Action | None) -> argparse.Action | None:
    """The option, if its value must follow."""
    return action if action is not None and action.nargs != 0 else None


def _fitting(names: Iterable[str], half: str) -> list[str]:
    return sorted(name for name in names if name.startswith(half))
