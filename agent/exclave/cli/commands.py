"""The commands join, leave, confirm, renew, cleanup and proxy swap.

If an agent runs, the command only requests the work; otherwise it does the work itself. Every command may be repeated.
Progress goes to standard error; with `--json`, one object goes to standard output at the end.
"""

import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from exclave.api.join_token import decode_token
from exclave.cli.proxy_commands import install_missing_proxy
from exclave.config import Config
from exclave.confirm.confirm import Unconfirmed, forget_unconfirmed, store_unconfirmed
from exclave.control.client import SOCKET_NAME as CONTROL
from exclave.control.client import NoAgent, query_agent, send_command
from exclave.daemon.leave_preview import preview_leave
from exclave.daemon.teardown import clean_up, depart, forget_everything, hold_join_lock
from exclave.errors import ExclaveError, Fault, HostError, error_object
from exclave.firewall.observer import find_blocked_before_join
from exclave.host_check.check import can_change_network, check_host
from exclave.host_check.mounts import find_mount_warnings
from exclave.join.join import join
from exclave.kit.formats.times import format_duration
from exclave.kit.host.files import hold_lock, make_folder, remove_folder
from exclave.kit.host.output import failure_lines, print_err, print_json, print_out
from exclave.kit.systemd.service_job import is_booted
from exclave.member.record import AGAIN, MEMBERSHIP, MembershipRecord, adopt_join, load_membership
from exclave.proxy.process.units import check_proxy
from exclave.redirect.kernel.nft import confirm_from_cold

T = TypeVar("T")

UNIT = "exclave.service"

ANSWER_TIMEOUT = 30.0  # seconds between two answers. A working agent sends one every few seconds.
LEAVE_TIMEOUT = 180.0  # seconds for an agent to leave: withdraw the ports, drain, end the proxy, delete the Member

NOT_DONE, NO_MEMBER = 3, 4  # exit codes: not in time or too soon, as of `exclave status`: not a member

NO_AGENT = "no agent runs on this machine"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a join. `state`: the agent's last one, None if no agent answered; `reason`: why it is not ready.

    `is_done`: the machine is ready, or only an application is missing, or the command does not wait.
    """

    state: str | None
    reason: str | None
    is_done: bool


def join_machine(
    token: str,
    config: Config,
    *,
    timeout: float | None,
    in_json: bool,
    again: bool = False,
    confirm: float | None = None,
) -> int:
    """Join, start the agent's unit if no agent runs, and wait until the machine is ready. Returns the exit code.

    `timeout`: seconds to wait once it has joined; None: do not wait. `again`: also if this machine is a member, which
    it stays until the new join has succeeded. `confirm`: seconds after which the rules are removed, unless
    `exclave confirm` is run.
    """
    make_folder(config.paths.state, 0o700)
    make_folder(config.paths.runtime, 0o755)
    with hold_join_lock(config.paths.runtime):
        former = load_membership(config.paths.state)
        spare = config.paths.state / AGAIN
        if load_membership(spare) is not None or (former is not None and (again or _is_token_of(token, former))):
            record = _join_beside(token, config, spare, former, confirm)
        else:
            record = _join_here(token, config, confirm)
    if confirm is not None:
        print_err(
            f"the rules are removed {format_duration(confirm)} after they are installed, unless you confirm them:"
        )
        print_err("check with a new login that this machine is reachable, then: exclave confirm")
    result = {"joined": {"namespace": record.namespace, "group": record.group, "member": record.member}}
    outcome = _reach_ready(config.paths.runtime, timeout)
    _print_result({**result, "state": outcome.state, "reason": outcome.reason}, in_json=in_json)
    return 0 if outcome.is_done else 3


def _is_token_of(token: str, record: MembershipRecord) -> bool:
    """True if a token lets this member's machine join again."""
    found = decode_token(token)
    return found.is_for_one and (found.namespace, *found.member_names) == (record.namespace, record.member)


def _join_here(token: str, config: Config, confirm: float | None) -> MembershipRecord:
    if confirm is not None:  # before the membership exists, because an agent may use it at once
        store_unconfirmed(config.paths.state, Unconfirmed(confirm))
    try:
        if load_membership(config.paths.state) is None:  # else a request is not needed, or the join is refused
            _check(token, config)
        return _run(partial(join, token, config, time.time, print_err))
    except BaseException:
        if confirm is not None and load_membership(config.paths.state) is None:
            forget_unconfirmed(config.paths.state)
        raise


def _join_beside(
    token: str, config: Config, spare: Path, former: MembershipRecord | None, confirm: float | None
) -> MembershipRecord:
    """Join into folder `spare`, then leave the former membership and move the files. So a bad token changes nothing."""
    # A join that finished earlier, but was not moved, is moved now.
    record = load_membership(spare)
    if record is None:
        _check(token, config)
        beside = replace(config, paths=replace(config.paths, state=spare))
        record = _run(partial(join, token, beside, time.time, print_err))
        assert record is not None
    if former is not None:
        print_err(f"leaving the former membership {former.namespace}/{former.member}")
        remains = _ask_to_leave(config.paths.runtime)
        if remains is None:
            remains = _leave_without_agent(config)
        same = (record.namespace, record.member) == (former.namespace, former.member)
        for what in () if same else remains:
            print_err(f"remains in the former cluster: {what}")
    if confirm is not None:
        store_unconfirmed(config.paths.state, Unconfirmed(confirm))
    adopt_join(spare, config.paths.state)
    return record


def _check(token: str, config: Config) -> None:
    """Raise ExclaveError if token or host cannot be used, before one of the token's uses is used up.

    A proxy is installed if there is none.
    """
    image = decode_token(token).proxy_image
    _run(partial(_check_machine, config))
    install_missing_proxy(image, config)
    _run(partial(check_proxy, config.proxy, config.paths.runtime))


async def _check_machine(config: Config) -> None:
    # exclave-join.service has no capabilities, and the agent has checked the host when it started.
    if can_change_network() or not _is_agent_running(config.paths.runtime):
        for warning in [*await check_host(config.proxy.binary), *await find_mount_warnings(config.redirect)]:
            print_err(f"warning: {warning}")


def check_machine(config: Config, *, in_json: bool) -> int:
    """Check before a join whether this host can be a member, and print warnings.

    Returns 3 if pods could not get in, else 0. Raises ExclaveError if it cannot be one.
    """

    async def check() -> tuple[list[str], bool]:
        warnings = [*await check_host(config.proxy.binary), *await find_mount_warnings(config.redirect)]
        await check_proxy(config.proxy, config.paths.runtime)
        blocked = await find_blocked_before_join()
        return list(dict.fromkeys([*warnings, *([blocked.text] if blocked is not None else [])])), blocked is not None

    warnings, is_blocked = _run(check)
    if in_json:
        print_json({"warnings": warnings, "reachable": not is_blocked})
    else:
        print_out(*(f"warning: {warning}" for warning in warnings))
        print_out("pods could not get in" if is_blocked else "this machine can be a member")
    return 3 if is_blocked else 0


def _is_agent_running(runtime: Path) -> bool:
    try:
        query_agent(runtime, "status")
    except NoAgent:
        return False
    return True


def _reach_ready(runtime: Path, timeout: float | None) -> Outcome:
    """Notify the agent, or start its unit, and wait for at most `timeout` seconds until this machine is ready."""
    deadline = time.monotonic() + (timeout or 0.0)
    state, waiting = _notify_agent(runtime, deadline if timeout is not None else None)
    if state is None:
        if not _start_unit():
            print_err(f"{NO_AGENT}; start it: exclave run")
            return Outcome(None, NO_AGENT, is_done=True)
        if timeout is not None:
            state, waiting = _notify_agent_when_up(runtime, deadline)
    if timeout is None:
        return Outcome(state, None, is_done=True)
    if state is None:
        reason = f"the agent of {UNIT} does not answer"
        print_err(f"{reason}; see why: systemctl status {UNIT}")
        return Outcome(None, reason, is_done=False)
    if state == "ready":
        return Outcome(state, None, is_done=True)
    if (failed := _failed_probes(runtime)) is not None:
        print_err(f"joined, but pods send no traffic here yet: {failed}")
        print_err("start the application; exclave status ends with 0 when this machine is ready")
        return Outcome(state, failed, is_done=True)
    reason = f"waiting for {waiting}" if waiting else f"this machine is {state}"
    print_err(f"joined, but not ready: {reason}; see why: exclave status")
    return Outcome(state, reason, is_done=False)


def _notify_agent(runtime: Path, deadline: float | None) -> tuple[str | None, str]:
    """Notify the agent of the join, and report its progress until the deadline (monotonic); None: do not wait.

    Returns the last state, None if no agent answers, and what it waits for.
    """
    state: str | None = None
    waiting, started = "", False
    silence = ANSWER_TIMEOUT if deadline is None else min(ANSWER_TIMEOUT, max(1.0, deadline - time.monotonic()))
    try:
        for line in send_command(runtime, "joined", silence):
            before, state = state, str(line.get("state"))
            started = started or state not in ("unjoined", "joining")  # before, it has not read the new files
            if deadline is None:
                return state, ""
            if started and state != before:
                print_err(f"agent: {state}")
            former, waiting = waiting, next(iter(line.get("waiting") or ()), "")
            if started and waiting and waiting != former:
                print_err(f"waiting for {waiting}")
            is_over = state == "ready" or (started and state in ("unjoined", "evicted"))
            if is_over or time.monotonic() >= deadline:
                return state, waiting
    except NoAgent:
        pass
    return state, waiting


def _notify_agent_when_up(runtime: Path, deadline: float) -> tuple[str | None, str]:
    while time.monotonic() < deadline and not _has_unit_failed():
        found = _notify_agent(runtime, deadline)
        if found[0] is not None:
            return found
        time.sleep(0.2)
    return None, ""


def _failed_probes(runtime: Path) -> str | None:
    """The probes that fail, if nothing else keeps this member from being ready; None if something else does."""
    try:
        status = query_agent(runtime, "status")
    except NoAgent:
        return None
    listing = status["listing"]
    reason = str(listing["reason"])
    failed = (f"{probe['kind']} {probe['port']}: " for probe in listing["probes"] if not probe["passing"])
    return reason if status["state"] == "pending" and reason.startswith(tuple(failed)) else None


def _start_unit() -> bool:
    """Start the agent's unit, if this system has systemd and the unit."""
    if not is_booted() or _systemctl("cat") != 0:
        return False
    print_err(f"starting {UNIT}")
    if _systemctl("is-enabled", "--quiet") != 0:
        print_err(f"{UNIT} does not start at boot; to change that: systemctl enable {UNIT}")
    return _systemctl("start", "--no-block") == 0


def _has_unit_failed() -> bool:
    return _systemctl("is-failed", "--quiet") == 0


def _systemctl(verb: str, *options: str) -> int:
    """The exit status of a systemctl command for the agent's unit."""
    done = subprocess.run(["systemctl", verb, *options, UNIT], capture_output=True, text=True, check=False)
    if done.returncode != 0 and verb == "start":
        print_err(*done.stderr.strip().splitlines())
    return done.returncode


def leave_machine(config: Config, *, in_json: bool) -> int:
    """Leave, with or without an agent. Returns the exit code."""
    record, remains, unremoved = None, list[str](), None
    if config.paths.state.exists() or config.paths.runtime.exists():  # otherwise exclave was never used here
        make_folder(config.paths.runtime, 0o755)
        with hold_join_lock(config.paths.runtime):
            record, remains, unremoved = _leave(config)
    if record is None and not remains:
        print_err("this machine is not a member")
    elif record is not None:
        print_err(f"left {record.namespace}/{record.member}")
    for what in remains:
        kind, _, name = what.partition(" ")
        namespace, _, name = name.partition("/")
        removal = f"kubectl -n {namespace} delete {kind.lower()} {name}"
        print_err(f"remains in the cluster: {what}; an admin removes it: {removal}")
    if unremoved is not None:
        raise unremoved
    return _print_result({"left": record is not None, "remains": remains}, in_json=in_json)


def preview_leaving(config: Config, *, in_json: bool) -> int:
    """Print what a leave would end and remove; change nothing. Returns the exit code. Raises HostError."""
    preview = _run(partial(preview_leave, config.paths))
    lines = preview.lines()
    if in_json:
        print_json({"dryRun": asdict(preview)})
    elif lines:
        print_out("exclave leave would end or remove:", *(f"  {line}" for line in lines))
    else:
        print_out("this machine is not a member, and there is nothing to remove")
    return 0


def _leave(config: Config) -> tuple[MembershipRecord | None, list[str], HostError | None]:
    """The former membership, the remains in the cluster, and the error of files that could not be removed."""
    record, unremoved = load_membership(config.paths.state), None
    try:
        remove_folder(config.paths.state / AGAIN)  # of an unfinished join; may contain a credential
    except HostError as problem:
        unremoved = problem  # raised after leaving, which is more important
    remains = _ask_to_leave(config.paths.runtime)
    return record, _leave_without_agent(config) if remains is None else remains, unremoved


def _ask_to_leave(runtime: Path) -> list[str] | None:
    """Let the agent leave. Returns the remains, None if no agent left. Raises the agent's ExclaveError."""
    try:
        for line in send_command(runtime, "leave", LEAVE_TIMEOUT):
            if (error := line.get("error")) is not None:
                fault = next((one for one in Fault if one.code == error.get("code")), Fault.DISK)
                raise ExclaveError(fault, str(error.get("message")), str(error.get("hint")))
            if "remains" in line:
                return [str(what) for what in line["remains"]]
            print_err("the agent is leaving")
    except NoAgent:
        pass
    return None


def _leave_without_agent(config: Config) -> list[str]:
    if not config.paths.state.exists():
        return []
    make_folder(config.paths.runtime, 0o755)
    hint = "it does not answer: stop it, for example with systemctl stop exclave, then leave again"
    with hold_lock(config.paths.runtime / "agent.lock", "an agent", hint):
        record = load_membership(config.paths.state)
        if record is None:
            forget_everything(config.paths)
            # An agent may have crashed after it deleted its files, with rules still installed.
            _run(partial(clean_up, config))
            return []
        print_err("no agent runs; leaving without one")
        return list(_run(partial(depart, record, config, time.time)))


def confirm_rules(config: Config, *, in_json: bool) -> int:
    """Make unconfirmed rules permanent, with or without an agent. Returns the exit code."""
    try:
        confirmed = bool(query_agent(config.paths.runtime, "confirm").get("confirmed"))
    except NoAgent:
        confirmed = forget_unconfirmed(config.paths.state)
        if confirmed:
            _run(confirm_from_cold)
    print_err("confirmed: the rules are permanent" if confirmed else "there was nothing to confirm")
    return _print_result({"confirmed": confirmed}, in_json=in_json)


def renew_certificate(config: Config, timeout: float, *, in_json: bool) -> int:
    """Let the agent renew the certificate now; returns the exit code. Raises NoAgent, HostError.

    `timeout`: seconds to wait for the outcome. The agent goes on after them.
    """
    if load_membership(config.paths.state) is None:
        return _report_failure(NO_MEMBER, "no-member", "this machine is not a member", "exclave join", in_json=in_json)
    deadline = time.monotonic() + timeout
    last: dict[str, Any] = {}
    for last in send_command(config.paths.runtime, "renew", ANSWER_TIMEOUT):
        if "renewing" in last and time.monotonic() >= deadline:
            text = f"no new certificate within {format_duration(timeout)}; the agent goes on trying"
            return _report_failure(NOT_DONE, "not-in-time", text, "see why: exclave status", in_json=in_json)
    if "tooSoon" in last:
        text = "not renewed: the last certificate was signed less than a minute ago"
        return _report_failure(NOT_DONE, "too-soon", text, f"try again in {last['tooSoon']} s", in_json=in_json)
    if "error" in last:
        error = _error_of(last, "which cannot renew on request")
        return _report_failure(error["code"], error["word"], error["message"], error["hint"], in_json=in_json)
    if "renewed" not in last:
        raise NoAgent
    print_err(f"renewed: the new certificate ends at {last['renewed']['notAfter']}")
    return _print_result(last, in_json=in_json)


def _error_of(answer: dict[str, Any], inability: str) -> dict[str, Any]:
    """The error of an answer. Raises HostError if the agent does not have the command."""
    error: dict[str, Any] = answer["error"]
    if "code" not in error:
        raise HostError(
            Fault.ANOTHER_AGENT,
            f"the running agent is an older version, {inability}",
            "let the new version take over, which does not affect traffic: systemctl reload exclave",
        )
    return error


def _report_failure(code: int, word: str, message: str, hint: str, *, in_json: bool) -> int:
    if in_json:
        print_json(error_object(code, word, message, hint))
    else:
        print_err(*failure_lines(message, hint))
    return code


def clean_up_without_agent(config: Config, *, in_json: bool) -> int:
    """Remove rules, proxies and link; needs no membership. Returns the exit code. Refuses if an agent runs."""
    hint = "stop it first, or leave with exclave leave"
    with ExitStack() as stack:
        try:
            make_folder(config.paths.runtime, 0o755)
            stack.enter_context(hold_lock(config.paths.runtime / "agent.lock", "an agent", hint))
        except HostError as problem:
            if problem.fault is not Fault.DISK:  # a full or read-only disk: where we cannot lock, no agent can either
                raise
            print_err(f"{problem.message}; cleaning up without the lock")
        else:
            (config.paths.runtime / CONTROL).unlink(missing_ok=True)  # left by an agent that was killed
        done = _run(partial(clean_up, config))
    for line in done:
        print_err(line)
    if (config.paths.state / MEMBERSHIP).exists():
        print_err("this machine is still a member, and pods may still send traffic here: exclave run, or exclave leave")
    return _print_result({"done": done}, in_json=in_json)


def swap_proxy(runtime: Path, *, forced: bool, in_json: bool) -> int:
    """Let the agent swap the proxy; returns the exit code. Raises NoAgent, or HostError if the agent is too old."""
    last: dict[str, Any] = {}
    reported = None
    for line in send_command(runtime, "swap-forced" if forced else "swap", ANSWER_TIMEOUT):
        last = line
        if (step := line.get("step")) is not None and step != reported:
            reported = step
            print_err(f"{step}{f' ({count} connections)' if (count := line.get('clients')) else ''}")
    if not last.keys() & {"swapped", "error"}:
        raise NoAgent
    if "error" in last:
        error = _error_of(last, "which cannot move traffic")
        return _report_failure(error["code"], error["word"], error["message"], error["hint"], in_json=in_json)
    done = last["swapped"]
    if not in_json:
        print_err(f"traffic moved from proxy {done['from']} to proxy {done['to']} in {done['seconds']:.1f} s")
    return _print_result(last, in_json=in_json)


def _print_result(result: dict[str, Any], *, in_json: bool) -> int:
    if in_json:
        print_json(result)
    return 0


def _run(work: Callable[[], Awaitable[T]]) -> T:
    return trio.run(work, strict_exception_groups=True)
