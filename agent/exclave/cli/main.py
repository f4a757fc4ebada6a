"""`exclave`: parses the command line and runs a command. Composition root. Functions import late, for a fast start."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from exclave import __version__
from exclave.cli.config_text import help_text
from exclave.cli.process_settings import set_process
from exclave.config import DEFAULT_PATH, Config, load_config, salvage_config
from exclave.errors import Fault, HostError, UsageError, error_object
from exclave.kit.formats.host_port import join_host_port, split_host_port
from exclave.kit.formats.times import format_duration, parse_duration
from exclave.kit.host.exit_code import run_command
from exclave.kit.host.output import failure_lines, print_err, print_json, print_out
from exclave.kit.host.packages import as_package_error, check_packages

CONFIRM_HELP = (
    "remove the rules after this time, such as 60s, unless you run exclave confirm: for a machine that you reach "
    "only over the network. If the agent dies meanwhile, the kernel disables them 15s later"
)


PACKAGES_INTERVAL = 3.0  # seconds between two attempts to find packages that are missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = {"demo": _demo, "admin": _admin}.get(words[0]) if words else None  # they have their own parsers
    options = argparse.Namespace(run=own, rest=words[1:]) if own is not None else _parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = options.run
    return run_command(partial(command, options), in_json=getattr(options, "json", False))


def _parser() -> argparse.ArgumentParser:
    description = "Make this virtual machine a member of a Linkerd mesh."
    parser = argparse.ArgumentParser(prog="exclave", description=description)
    parser.add_argument("--version", action="version", version=f"exclave {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", **more)
        command.set_defaults(run=run)
        return command

    as_written = argparse.RawDescriptionHelpFormatter
    run = add("run", _run, "run the agent in the foreground", epilog=help_text(), formatter_class=as_written)
    join = add("join", _join, "join a group; returns when pods may send traffic here")
    visible = "the join token; other users can see it here: use --token-file"
    join.add_argument("token", nargs="?", metavar="TOKEN", help=visible)
    join.add_argument("--token-file", metavar="FILE", help="file with the token; - is standard input")
    again = "join although this machine is a member, then leave the former membership"
    join.add_argument("--again", action="store_true", help=again)
    for command in (run, join):
        command.add_argument("--confirm", type=parse_duration, metavar="TIME", help=CONFIRM_HELP)
    waits = join.add_mutually_exclusive_group()
    longest = "once it has joined, wait at most this long until pods may send traffic here; default: 60s"
    # A machine is ready some 4 s after it has joined. A slow one gets 15 times as long, and no script waits for ever.
    waits.add_argument("--timeout", type=parse_duration, default=60.0, metavar="TIME", help=longest)
    waits.add_argument("--no-wait", action="store_true", help="return when the credential is stored")
    checked = "exit status: 3 its firewall would keep pods out, or the code of what is wrong"
    check = add("check", _check, f"check before a join that this machine can be a member; {checked}")
    leave = add("leave", _leave, "leave the mesh and remove everything that exclave made here")
    leave.add_argument("--dry-run", action="store_true", help="print what would be ended and removed; change nothing")
    confirm = add("confirm", _confirm, "make rules permanent that were made with --confirm")
    renewed = "exit status: 3 too soon, or not in time, 4 not a member, 5 no agent"
    renew = add("renew", _renew, f"renew the certificate now, at most once a minute; {renewed}")
    exit_status = "exit status: 0 ready, 3 not ready, 4 not a member, 5 no agent"
    status = add("status", _status, f"show the state of this machine; {exit_status}")
    wait_status = "exit status: 0 when it does, or not a member, 3 not in time, 5 no agent"
    wait = add("wait", _wait, f"wait until traffic of this machine goes through the mesh; {wait_status}")
    for command, most in ((wait, 60.0), (renew, 90.0)):  # an attempt to renew ends after 60 s, with its reason
        time = f"wait for at most this time, such as 90s; default {format_duration(most)}"
        command.add_argument("--timeout", type=parse_duration, default=most, metavar="TIME", help=time)
    again = "have the agent check its configuration and start again as installed now, without an effect on traffic"
    reload = add("reload", _reload, again)
    explain = add("explain", _explain, "show what would happen to a new connection, and by which rule")
    _add_explain_options(explain)
    cleanup = add("cleanup", _cleanup, "remove rules, proxies and link while no agent runs; the membership stays")
    proxies = _add_proxy_commands(commands)
    controller = add("controller", _controller, "run the controller, in the cluster")
    _add_controller_options(controller)
    add("demo", _demo, "play the demo on this machine, in network namespaces")
    add("admin", _admin, "manage groups, join tokens and members through kubectl")
    default = f"default {DEFAULT_PATH}"
    for command in (run, join, check, confirm, renew, leave, status, wait, reload, explain, cleanup, *proxies):
        command.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help=default)
    for command in (join, check, confirm, renew, leave, status, wait, reload, explain, cleanup, *proxies):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_proxy_commands(commands: Any) -> list[argparse.ArgumentParser]:
    """Add `proxy` with its commands, which are returned."""
    summary = "the proxy: its versions, a swap to a new one, its metrics and its certificate"
    verbs = commands.add_parser("proxy", help=summary, description=f"{summary.capitalize()}.").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        command.set_defaults(run=run)
        return command

    swap = add("swap", _swap, "start another proxy, test it, move traffic to it")
    forced = "also without Linkerd's policy controller; end at once a proxy that still drains"
    swap.add_argument("--force", action="store_true", help=forced)
    metrics = add("metrics", partial(_show_proxy, "metrics"), "print the metrics that a proxy serves; needs no agent")
    identity = add(
        "identity", partial(_show_proxy, "identity"), "show the certificate that a proxy serves; needs no agent"
    )
    for command in (metrics, identity):
        which = "of this instance; default: the one that the rules point to"
        command.add_argument("--instance", choices=("a", "b"), help=which)
    install = add("install", partial(_proxies, "install_proxy"), "download a proxy, test it here, and use it")
    which = "such as cr.l5d.io/linkerd/proxy:TAG@sha256:DIGEST; default: the image that the cluster of this member runs"
    install.add_argument("image", nargs="?", metavar="IMAGE", help=which)
    for option, kind, metavar, help_of_option in (
        ("--mirror", str, "HOST[/PREFIX]", "a registry that has the image in place of the one in its name"),
        ("--file", Path, "FILE", "the program itself, in place of an image"),
        ("--url", str, "URL", "where the program itself can be downloaded; needs --sha256"),
        ("--sha256", str, "HEX", "the program must have this digest"),
        ("--ca-file", Path, "FILE", "PEM file with the CA of the registry; default: those of this machine"),
        ("--auth-file", Path, "FILE", "passwords for registries, as docker login writes them"),
    ):
        install.add_argument(option, type=kind, metavar=metavar, help=help_of_option)
    longest = "stop after this time; the next attempt continues; default: 15m"
    install.add_argument("--timeout", type=parse_duration, metavar="TIME", help=longest)
    install.add_argument("--no-use", action="store_true", help="do not use it yet")
    listing = add("list", partial(_proxies, "list_proxies"), "list the installed proxies")
    use = add("use", partial(_proxies, "use_proxy"), "use another installed proxy, also to go back")
    remove = add("remove", partial(_proxies, "remove_proxy"), "remove an installed proxy that is not in use")
    for command in (use, remove):
        command.add_argument("name", metavar="NAME", help="its name or version, as exclave proxy list prints it")
    return [swap, metrics, identity, install, listing, use, remove]


def _add_explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[outbound|inbound] ADDRESS:PORT",
        help="outbound: where a program here connects to, also NAME:PORT; inbound: where others connect to, "
        "also :PORT for all addresses of this machine",
    )
    for option, name, metavar, summary in (
        ("--user", "user", "NAME", "outbound: the program's user, by name or number; default: yours"),
        ("--group", "group", "NAME", "outbound: the program's group, by name or number; default: the user's"),
        ("--from", "source", "ADDRESS", "inbound: the caller's address"),
        ("--interface", "interface", "NAME", "inbound: the interface that it arrives on"),
    ):
        parser.add_argument(option, dest=name, metavar=metavar, help=summary)
    trace = "outbound: open one connection and compare with what the kernel does"
    parser.add_argument("--trace", action="store_true", help=trace)


def _add_controller_options(parser: argparse.ArgumentParser) -> None:
    for option, default, metavar, summary in (
        ("--namespace", "exclave", "NAME", "exclave's namespace; default: exclave"),
        ("--linkerd-namespace", "linkerd", "NAME", "Linkerd's namespace; default: linkerd"),
        ("--issuer", "exclave-issuer", "[NAMESPACE/]SECRET", "the issuer's Secret; default: exclave-issuer"),
        ("--listen", None, "[ADDRESS]:PORT", "address of /healthz, /readyz and /metrics"),
        ("--server", None, "URL", "the API server's URL; default: from the pod's environment"),
    ):
        parser.add_argument(option, default=default, metavar=metavar, help=summary)
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    parser.add_argument("--ca-file", type=Path, default=account / "ca.crt", metavar="FILE", help="PEM file with its CA")
    summary = "file with the account's token"
    parser.add_argument("--token-file", type=Path, default=account / "token", metavar="FILE", help=summary)


# The commands.


def _run(options: argparse.Namespace) -> int:
    from exclave.kit.systemd.sd_notify import failure, notify
    from exclave.kit.tasks.signals import block_until_exec, ending_signals_recorded

    words = list(sys.orig_argv)
    with ending_signals_recorded():
        try:
            try:
                runs_again = _run_agent(options)
                words = _drop_confirm_option(words)
            except (ImportError, HostError) as problem:
                runs_again = _wait_for_packages(problem, options)
                if not runs_again:
                    raise
            if runs_again:
                block_until_exec()
                os.execv(sys.executable, words)  # noqa: S606  the program as installed now
        except BaseException as problem:  # a group of exceptions may not be an Exception
            notify(*failure(as_package_error(problem) or problem))
            raise
    return 0


def _wait_for_packages(problem: ImportError | HostError, options: argparse.Namespace) -> bool:
    """Wait until packages that are missing may be there: they are missing for seconds during an upgrade.

    False if it must not be waited for them: without systemd, on a machine that is no member, at a signal to end.
    """
    error = as_package_error(problem)
    is_member = (salvage_config(options.config).paths.state / "membership.json").exists()
    if error is None or not is_member or "NOTIFY_SOCKET" not in os.environ:
        return False
    import signal

    from exclave.kit.host.exit_code import print_error
    from exclave.kit.systemd.sd_notify import failure, notify
    from exclave.kit.tasks.signals import wait_signal

    print_error(error)
    notify("READY=1", *failure(error))
    while (received := wait_signal(PACKAGES_INTERVAL)) is None:
        notify("WATCHDOG=1")
        importlib.invalidate_caches()
        with suppress(HostError):
            check_packages()
            return True
    return received == signal.SIGHUP


def _run_agent(options: argparse.Namespace) -> bool:
    _require_root("running the agent")
    os.umask(0o077)
    check_packages()
    import faulthandler
    import time

    import trio

    from exclave.daemon.process import run
    from exclave.host_check.check import check_host
    from exclave.kit.systemd.sd_notify import watchdog_time
    from exclave.member.record import load_membership

    config = load_config(options.config)
    fields: dict[str, str] = {}
    _open_log(fields)
    # To standard error at the watchdog's SIGABRT: files and lines of all threads, without any value.
    faulthandler.enable(2)
    check = partial(check_host, config.proxy.binary)
    if load_membership(config.paths.state) is None:
        # A program that occupies a port does no harm while this machine is no member: a join checks the ports again.
        for warning in trio.run(partial(check, needs_ports=False), strict_exception_groups=True):
            logging.getLogger("exclave.host_check").warning(warning)
    watchdog = watchdog_time(os.environ, os.getpid())
    # Without systemd a person waits at a terminal, or a supervisor starts the agent again.
    running = partial(run, check=check, waits_for_host="NOTIFY_SOCKET" in os.environ)
    return trio.run(running, config, time.time, options.confirm, watchdog, fields, strict_exception_groups=True)


def _drop_confirm_option(words: Sequence[str]) -> list[str]:
    """A command line without --confirm: after a hand-over the timer continues, or the rules are already confirmed."""
    others: list[str] = []
    for number, word in enumerate(words):
        if word != "--confirm" and not word.startswith("--confirm=") and words[number - 1 : number] != ["--confirm"]:
            others.append(word)
    return others


def _join(options: argparse.Namespace) -> int:
    _require_root("joining")
    check_packages()
    from exclave.cli.commands import join_machine
    from exclave.cli.token_source import read_token

    config = load_config(options.config)
    token = read_token(options.token, options.token_file, os.environ)
    return join_machine(
        token,
        config,
        timeout=None if options.no_wait else options.timeout,
        in_json=options.json,
        again=options.again,
        confirm=options.confirm,
    )


def _confirm(options: argparse.Namespace) -> int:
    _require_root("confirming")
    from exclave.cli.commands import confirm_rules

    return confirm_rules(load_config(options.config), in_json=options.json)


def _renew(options: argparse.Namespace) -> int:
    _require_root("renewing")
    from exclave.cli.commands import renew_certificate
    from exclave.control.client import NoAgent

    try:
        return renew_certificate(load_config(options.config), options.timeout, in_json=options.json)
    except NoAgent:
        return _report_no_agent(in_json=options.json)


def _leave(options: argparse.Namespace) -> int:
    _require_root("leaving")
    from exclave.cli.commands import leave_machine, preview_leaving

    leave = preview_leaving if options.dry_run else leave_machine
    return leave(load_config(options.config), in_json=options.json)


def _status(options: argparse.Namespace) -> int:
    from exclave.cli.status_text import exit_code, print_lines, status_lines
    from exclave.control.client import NoAgent, query_agent

    runtime = load_config(options.config).paths.runtime
    try:
        status = query_agent(runtime, "status")
    except NoAgent:
        return _report_no_agent(in_json=options.json)
    if options.json:
        print_json(status, indent=2)
    else:
        print_lines(status_lines(status))
    return exit_code(status)


def _wait(options: argparse.Namespace) -> int:
    _require_root("waiting for the agent")
    from exclave.cli.wait import wait_redirected

    return wait_redirected(load_config(options.config), options.timeout, in_json=options.json)


def _reload(options: argparse.Namespace) -> int:
    _require_root("reloading")
    from exclave.control.client import NoAgent, query_agent

    # The program as installed now might end at once, or not serve. So it is checked first, and the running agent stays.
    check_packages()
    import trio

    import exclave.daemon.process  # noqa: F401  all that the agent imports
    from exclave.host_check.check import check_host
    from exclave.member.record import load_membership

    config = load_config(options.config)
    runtime = config.paths.runtime
    needs_ports = load_membership(config.paths.state) is not None
    checking = partial(check_host, config.proxy.binary, needs_ports=needs_ports)
    for warning in trio.run(checking, strict_exception_groups=True):
        print_err(f"warning: {warning}")
    try:
        reloading = query_agent(runtime, "reload").get("reloading")
    except NoAgent:
        return _report_no_agent(in_json=options.json)
    if not reloading:
        hint = "wait until it has ended, then start it: systemctl start exclave"
        raise HostError(Fault.ANOTHER_AGENT, "the agent is ending and cannot reload", hint)
    if options.json:
        print_json({"reloading": True})
    else:
        print_err("the agent starts again; traffic is not affected")
    return 0


def _check(options: argparse.Namespace) -> int:
    _require_root("checking this machine")
    check_packages()
    from exclave.cli.commands import check_machine

    return check_machine(load_config(options.config), in_json=options.json)


def _explain(options: argparse.Namespace) -> int:
    _require_root("explaining")
    import trio

    from exclave.explain.explain import ask, explain, explained_lines, explained_object

    runtime = salvage_config(options.config).paths.runtime
    question, asker = ask(options.words, options.user, options.group, options.source, options.interface, options.trace)
    work = partial(explain, question, asker, runtime, with_trace=options.trace)
    explanations = trio.run(work, strict_exception_groups=True)
    if options.json:
        print_json(explained_object(explanations), indent=2)
    else:
        print_out(*explained_lines(explanations))
    return 0


def _report_no_agent(*, in_json: bool) -> int:
    from exclave.cli.status_text import NO_AGENT

    text = ("no agent runs on this machine", "start it: systemctl start exclave; or exclave run")
    if in_json:
        print_json(error_object(NO_AGENT, "no-agent", *text))
    else:
        print_err(*failure_lines(*text))
    return NO_AGENT


def _proxies(function: str, options: argparse.Namespace) -> int:
    _require_root("managing proxies")
    check_packages()
    from exclave.cli import proxy_commands

    command: Callable[[argparse.Namespace, Config], int] = getattr(proxy_commands, function)
    return command(options, load_config(options.config))


def _swap(options: argparse.Namespace) -> int:
    _require_root("moving traffic")
    from exclave.cli.commands import swap_proxy
    from exclave.control.client import NoAgent

    runtime = load_config(options.config).paths.runtime
    try:
        return swap_proxy(runtime, forced=options.force, in_json=options.json)
    except NoAgent:
        return _report_no_agent(in_json=options.json)


def _show_proxy(what: str, options: argparse.Namespace) -> int:
    _require_root(f"showing the proxy's {what}")
    from exclave.cli.proxy_answers import print_identity, print_metrics

    show = print_metrics if what == "metrics" else print_identity
    return show(salvage_config(options.config).paths, options.instance, in_json=options.json)


def _cleanup(options: argparse.Namespace) -> int:
    _require_root("cleaning up")
    from exclave.cli.commands import clean_up_without_agent

    # An invalid configuration must not prevent a clean-up; its folders may still be valid.
    return clean_up_without_agent(salvage_config(options.config), in_json=options.json)


def _controller(options: argparse.Namespace) -> int:
    import secrets
    import socket
    import time

    import trio

    from exclave.cluster.endpoint import Access

    try:
        from exclave.controller.replica import run_controller
        from exclave.controller.run import Locations
    except ModuleNotFoundError as problem:
        if not str(problem.name).startswith("exclave.controller"):
            raise  # a library that it needs
        hint = "it runs in the cluster, from its container image: kubectl exclave install"
        raise UsageError("the controller is not installed", hint) from None

    _open_log({})
    try:
        access = Access((options.server or _server_of_pod(),), options.ca_file.read_text())
    except (OSError, ValueError) as problem:
        hint = "name it with --server, --ca-file and --token-file"
        raise UsageError(f"the API server is not known: {problem}", hint) from None
    where, _, secret = options.issuer.rpartition("/")
    place = Locations(options.namespace, options.linkerd_namespace, where or None, secret, options.ca_file)
    try:
        listen = split_host_port(options.listen, lowest=0) if options.listen else None
    except ValueError as problem:
        raise UsageError(f"--listen: {problem}", "for instance: --listen '[::]:9990'") from None
    me = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    trio.run(run_controller, access, options.token_file, place, me, listen, time.time, strict_exception_groups=True)
    return 0


def _server_of_pod() -> str:
    """The API server's URL inside a pod. Source: kubernetes.io, "Directly accessing the REST API"."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError("KUBERNETES_SERVICE_HOST is not set")
    return f"https://{join_host_port(host, port)}"


def _demo(options: argparse.Namespace) -> int:
    main = _import_part(
        "exclave_sandbox.demo.main", "the demo is not installed", "run ./agent/demo in a checkout of exclave"
    )
    return int(main(options.rest))


def _admin(options: argparse.Namespace) -> int:
    hint = "install the package exclave-admin, then run kubectl exclave"
    main = _import_part("exclave.admin.main", "the admin's commands are not installed", hint)
    return int(main(options.rest))


def _import_part(name: str, absence: str, hint: str) -> Callable[[Sequence[str]], int]:
    """`main` of a module that the package exclave leaves out. Raises UsageError if it is absent."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if not name.startswith(str(problem.name)):
            raise  # a library that it needs
        raise UsageError(absence, hint) from None
    main: Callable[[Sequence[str]], int] = module.main
    return main


def _require_root(action: str) -> None:
    if os.geteuid() != 0:
        raise HostError(Fault.NO_PRIVILEGE, f"{action} needs root", f"run it as root: sudo {' '.join(sys.argv[:2])}")
    set_process(os.environ)


def _open_log(fields: Mapping[str, str]) -> None:
    """Log to the journal or to standard error. `fields`: of each entry of the journal, as they are at that time."""
    from exclave.kit.systemd.journal import make_handler

    logging.basicConfig(handlers=[make_handler(fields)], level=logging.INFO)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
