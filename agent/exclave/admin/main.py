"""`kubectl exclave`, also called as `linkerd exclave` and `exclave admin`: parses the command line, reports failures.

The help uses the name that the program was called by. Exit codes and the form of a failure are those of `exclave`.
Nothing needs root or is stored on disk: all state is in the cluster, and kubectl is the only way there.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from exclave import __version__
from exclave.admin.arguments import PROGRAM, Subparsers, Verb, add_common, parse_groups
from exclave.admin.check import verbs as check
from exclave.admin.group import verbs as group
from exclave.admin.install import uninstall
from exclave.admin.install import verbs as install
from exclave.admin.kubectl import Kubectl
from exclave.admin.member import verbs as member
from exclave.admin.rotation import verbs as rotation
from exclave.admin.session import Session
from exclave.admin.token import verbs as token
from exclave.errors import ExclaveError, Fault
from exclave.kit.host.exit_code import run_command

SUBJECTS = (install, check, group, token, member, rotation, uninstall)

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

NAMES = {"kubectl-exclave": PROGRAM, "linkerd-exclave": "linkerd exclave"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. `arguments` are those after the program's name."""
    options = build_parser(_program()).parse_args(arguments)
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
    _add_completion(subparsers)
    return parser


def _program() -> str:
    called = Path(sys.argv[0]).name
    return NAMES.get(called, "exclave admin")


def _add_completion(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a completion script for kubectl-exclave.",
        epilog="examples:\n  source <(kubectl-exclave completion bash)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.set_defaults(run=_complete)


def _complete(_session: Session, options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise ExclaveError(
            Fault.USAGE, "completion needs the Python library shtab", "install it: pip install 'exclave[admin]'"
        ) from None
    called = Path(sys.argv[0]).name
    program = called if called in NAMES else "kubectl-exclave"
    print(shtab.complete(build_parser(program), shell=options.shell))
    return 0
