"""`exclave`: what is typed, what is done, and how it ends. Composition root of the commands.

Rules: exit codes and fixed words are those of `errors.Fault`; 0 is done, 2 a wrong command line, 130 interrupted. A
failure is told in two lines, what was met and what to do; with `--json` as one object on standard output. What nobody
foresaw is a bug of ours and says so, without an exception's own words. Imports are done where they are needed: a
command takes no longer to start than it must.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from exclave import __version__
from exclave.cli.config_text import help_text
from exclave.config import DEFAULT_PATH, Config, load_config, salvage_config
from exclave.errors import ExclaveError, Fault, HostError, bug_lines, bug_object, error_lines, error_object, find_error
from exclave.kit.formats.duration import parse_duration
from exclave.kit.formats.host_port import join_host_port, split_host_port


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # These parse their own options, so that one place knows them.
    own = {"demo": _demo, "admin": _admin}.get(given[0]) if given else None
    options = argparse.Namespace(run=own, rest=given[1:]) if own is not None else _parser().parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone; Python would complain once more at its own end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as problem:
        if isinstance(problem, (SystemExit, GeneratorExit)):
            raise
        return _fail(problem, in_json=getattr(options, "json", False))


def _fail(problem: BaseException, *, in_json: bool) -> int:
    error = find_error(problem)
    if error is None:
        print(bug_lines(problem), file=sys.stderr)
        if in_json:
            print(json.dumps(bug_object()))
        return Fault.BUG.code
    if in_json:
        print(json.dumps(error_object(error.fault.code, error.fault.word, error.message, error.hint)))
    else:
        print(error_lines(error), file=sys.stderr)
    return error.fault.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exclave", description="A virtual machine becomes a member of a Linkerd mesh."
    )
    parser.add_argument("--version", action="version", version=f"exclave {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], told: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".", **more)
        command.set_defaults(run=run)
        return command

    as_written = argparse.RawDescriptionHelpFormatter
    run = add("run", _run, "be the agent, until told to end", epilog=help_text(), formatter_class=as_written)
    join = add("join", _join, "become a member; returns when pods may send traffic here")
    join.add_argument("token", nargs="?", metavar="TOKEN", help="the join token; other users see it: use --token-file")
    join.add_argument("--token-file", metavar="FILE", help="read the token from a file; - is standard input")
    join.add_argument(
        "--again", action="store_true", help="join anew though this machine is a member, and then leave that"
    )
    for command in (run, join):
        command.add_argument(
            "--confirm",
            type=parse_duration,
            metavar="TIME",
            help="have the rules go back after a time such as 60s, unless exclave confirm is run: for a machine that "
            "you reach over the network only. If the agent dies meanwhile, the kernel ends them 15s later",
        )
    join.add_argument("--no-wait", action="store_true", help="return once the credential is stored")
    leave = add("leave", _leave, "walk back, deregister, leave no trace")
    confirm = add("confirm", _confirm, "have rules for good that were made with --confirm")
    status = add(
        "status", _status, "say what this machine is: exit status 0 ready, 3 not ready, 4 unjoined, 5 no agent"
    )
    explain = add("explain", _explain, "say what would happen to a new connection, and by which rule")
    _add_explain_options(explain)
    cleanup = add("cleanup", _cleanup, "remove rules, proxies and link from cold; the membership stays")
    proxy = add("proxy", _proxy, "move traffic to another proxy: exclave proxy swap")
    proxy.add_argument("verb", choices=["swap"], help="start the other instance, prove it, move traffic to it")
    proxy.add_argument(
        "--force", action="store_true", help="also without Linkerd's policy controller; end at once what drains"
    )
    controller = add("controller", _controller, "be the cluster's side: admit, register, sign, reap, publish")
    _add_controller_options(controller)
    add("demo", _demo, "show all of it on one machine, in network namespaces")
    add("admin", _admin, "groups, join tokens and members, through your own kubectl")
    for command in (run, join, confirm, leave, status, explain, cleanup, proxy):
        command.add_argument(
            "--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help=f"default {DEFAULT_PATH}"
        )
    for command in (join, confirm, leave, status, explain, cleanup, proxy):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[outbound|inbound] ADDRESS:PORT",
        help="what a program here calls, also NAME:PORT; or what is called from outside, also :PORT for all own ones",
    )
    parser.add_argument("--user", metavar="NAME", help="the program's user, or its number; yours, if absent")
    parser.add_argument("--group", metavar="NAME", help="the program's group, or its number; the user's, if absent")
    parser.add_argument("--from", dest="source", metavar="ADDRESS", help="inbound: the caller's address")
    parser.add_argument("--interface", metavar="NAME", help="inbound: the interface that it comes by")
    parser.add_argument("--trace", action="store_true", help="outbound: try one connection, and check with the kernel")


def _add_controller_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", default="exclave", metavar="NAME", help="where the issuer's Secret is")
    parser.add_argument("--linkerd-namespace", default="linkerd", metavar="NAME", help="where Linkerd is")
    parser.add_argument("--issuer", default="exclave-issuer", metavar="[NAMESPACE/]SECRET", help="what signs")
    parser.add_argument("--listen", metavar="[ADDRESS]:PORT", help="answer /healthz, /readyz and /metrics there")
    parser.add_argument("--server", metavar="URL", help="the API server; as a pod is told, if absent")
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    parser.add_argument("--ca-file", type=Path, default=account / "ca.crt", metavar="FILE")
    parser.add_argument("--token-file", type=Path, default=account / "token", metavar="FILE")


# The commands.


def _run(options: argparse.Namespace) -> int:
    _need_root("running the agent")

    config = load_config(options.config)
    _log_to_stderr()
    is_handed_over = _run_agent(config, options.confirm)
    if is_handed_over:
        os.execv(sys.executable, _without_confirm(sys.orig_argv))  # noqa: S606  the program as it is on disk now
    return 0


def _without_confirm(words: Sequence[str]) -> list[str]:
    """A command line without --confirm: a time that has begun goes on, and what was confirmed stays so."""
    kept: list[str] = []
    for number, word in enumerate(words):
        if word != "--confirm" and not word.startswith("--confirm=") and words[number - 1 : number] != ["--confirm"]:
            kept.append(word)
    return kept


def _run_agent(config: Config, confirm: float | None) -> bool:
    import time

    import trio

    from exclave.daemon.process import run
    from exclave.ending import Ending

    ending = trio.run(run, config, time.time, confirm, strict_exception_groups=True)
    return ending is Ending.HAND_OVER


def _join(options: argparse.Namespace) -> int:
    _need_root("joining")
    from exclave.cli.commands import join_and_tell
    from exclave.cli.token_source import read_token

    config = load_config(options.config)
    token = read_token(options.token, options.token_file, os.environ)
    return join_and_tell(
        token,
        config,
        wait=not options.no_wait,
        in_json=options.json,
        again=options.again,
        confirm=options.confirm,
    )


def _confirm(options: argparse.Namespace) -> int:
    _need_root("confirming")
    from exclave.cli.commands import confirm_rules

    return confirm_rules(load_config(options.config), in_json=options.json)


def _leave(options: argparse.Namespace) -> int:
    _need_root("leaving")
    from exclave.cli.commands import leave_or_depart

    return leave_or_depart(load_config(options.config), in_json=options.json)


def _status(options: argparse.Namespace) -> int:
    from exclave.cli.status_text import exit_code, status_lines
    from exclave.cli.terminal import print_lines
    from exclave.control.client import NoAgent, query_agent

    runtime = load_config(options.config).paths.runtime
    try:
        status = query_agent(runtime, "status")
    except NoAgent:
        return _no_agent(in_json=options.json)
    if options.json:
        print(json.dumps(status, indent=2))
    else:
        print_lines(status_lines(status))
    return exit_code(status)


def _explain(options: argparse.Namespace) -> int:
    _need_root("explaining")
    import trio

    from exclave.explain.explain import ask, explain, explained_lines, explained_object

    runtime = salvage_config(options.config).paths.runtime
    question, asker = ask(options.words, options.user, options.group, options.source, options.interface, options.trace)
    explanations = trio.run(
        partial(explain, question, asker, runtime, with_trace=options.trace), strict_exception_groups=True
    )
    if options.json:
        print(json.dumps(explained_object(explanations), indent=2))
    else:
        print("\n".join(explained_lines(explanations)))
    return 0


def _no_agent(*, in_json: bool) -> int:
    from exclave.cli.status_text import NO_AGENT

    told = ("no agent runs on this machine", "start it: systemctl start exclave; or exclave run")
    if in_json:
        print(json.dumps(error_object(NO_AGENT, "no-agent", *told)))
    else:
        print(f"exclave: {told[0]}\n  to do: {told[1]}", file=sys.stderr)
    return NO_AGENT


def _proxy(options: argparse.Namespace) -> int:
    _need_root("moving traffic")
    from exclave.cli.commands import swap_and_tell
    from exclave.control.client import NoAgent

    runtime = load_config(options.config).paths.runtime
    try:
        return swap_and_tell(runtime, forced=options.force, in_json=options.json)
    except NoAgent:
        return _no_agent(in_json=options.json)


def _cleanup(options: argparse.Namespace) -> int:
    _need_root("cleaning up")
    from exclave.cli.commands import clean_up_from_cold

    # A broken configuration must not keep rules in place; what it says of folders may be right all the same.
    return clean_up_from_cold(salvage_config(options.config), in_json=options.json)


def _controller(options: argparse.Namespace) -> int:
    import secrets
    import socket
    import time

    import trio

    from exclave.cluster.endpoint import Access
    from exclave.controller.replica import run_controller
    from exclave.controller.run import Place

    _log_to_stderr()
    try:
        access = Access((options.server or _server_of_pod(),), options.ca_file.read_text())
    except (OSError, ValueError) as problem:
        raise ExclaveError(
            Fault.USAGE, f"the API server is not known: {problem}", "name it: --server, --ca-file and --token-file"
        ) from None
    where, _, secret = options.issuer.rpartition("/")
    place = Place(options.namespace, options.linkerd_namespace, where or None, secret)
    try:
        listen = split_host_port(options.listen, lowest=0) if options.listen else None
    except ValueError as problem:
        raise ExclaveError(Fault.USAGE, f"--listen: {problem}", "for instance: --listen '[::]:9990'") from None
    me = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    trio.run(run_controller, access, options.token_file, place, me, listen, time.time, strict_exception_groups=True)
    return 0


def _server_of_pod() -> str:
    """Where a pod finds its API server. Source: kubernetes.io, "Directly accessing the REST API"."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError("KUBERNETES_SERVICE_HOST is not set")
    return f"https://{join_host_port(host, port)}"


def _demo(options: argparse.Namespace) -> int:
    try:
        demo = importlib.import_module("exclave_sandbox.demo.main")  # not part of any package
    except ModuleNotFoundError:
        print("exclave: the demo is part of a checkout\n  to do: run ./agent/demo in one", file=sys.stderr)
        return Fault.USAGE.code
    code: int = demo.main(options.rest)
    return code


def _admin(options: argparse.Namespace) -> int:
    from exclave.admin.main import main as admin

    return admin(options.rest)


def _need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise HostError(Fault.NO_PRIVILEGE, f"{what} needs root", f"run it as root: sudo {' '.join(sys.argv[:2])}")


def _log_to_stderr() -> None:
    import logging

    stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "  # the journal has its own
    logging.basicConfig(format=f"{stamp}%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
