"""The commands join, leave, confirm, cleanup and proxy swap.

If an agent runs, the command only requests the work; otherwise it does the work itself. Every command may be repeated.
Progress goes to standard error; with `--json`, one object goes to standard output at the end.
"""

import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from exclave.api.join_token import decode_token
from exclave.config import Config
from exclave.confirm.confirm import Unconfirmed, forget_unconfirmed, store_unconfirmed
from exclave.control.client import SOCKET_NAME as CONTROL
from exclave.control.client import NoAgent, query_agent, send_command
from exclave.daemon.teardown import clean_up, depart, forget_everything, hold_join_lock
from exclave.errors import ExclaveError, Fault, HostError
from exclave.join.join import join
from exclave.kit.formats.times import format_duration
from exclave.kit.host.files import hold_lock, remove_folder
from exclave.member.record import AGAIN, MEMBERSHIP, MembershipRecord, adopt_join, load_membership, make_folder
from exclave.redirect.kernel.nft import confirm_from_cold

T = TypeVar("T")

UNIT = "exclave.service"

UNIT_START_TIMEOUT = 30.0  # seconds until the agent must answer after the start of its unit
ANSWER_TIMEOUT = 30.0  # seconds between two answers. A working agent sends one every few seconds.
LEAVE_TIMEOUT = 180.0  # seconds for an agent to leave: withdraw the ports, drain, end the proxy, delete the Member


def join_machine(
    token: str, config: Config, *, wait: bool, in_json: bool, again: bool = False, confirm: float | None = None
) -> int:
    """Join and notify the agent; with `wait`, wait until it is ready. Returns the exit code.

    `again`: also if this machine is a member, which it stays until the new join has succeeded. `confirm`: seconds after
    which the rules are removed, unless `exclave confirm` is run.
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
        _report(f"the rules are removed {format_duration(confirm)} after they are installed, unless you confirm them:")
        _report("check with a new login that this machine is reachable, then: exclave confirm")
    result = {"joined": {"namespace": record.namespace, "group": record.group, "member": record.member}}
    state = _notify_agent(config.paths.runtime, wait=wait)
    if state is None and _start_unit():
        state = _notify_agent_when_up(config.paths.runtime, wait=wait)
    if state is None:
        _report("no agent runs on this machine; start it: exclave run")
    _print_result({**result, "state": state}, in_json=in_json)
    return 0 if state in (None, "ready") or not wait else 3


def _is_token_of(token: str, record: MembershipRecord) -> bool:
    """True if a token lets this member's machine join again."""
    found = decode_token(token)
    return found.is_for_one and (found.namespace, *found.member_names) == (record.namespace, record.member)


def _join_here(token: str, config: Config, confirm: float | None) -> MembershipRecord:
    if confirm is not None:  # before the membership exists, because an agent may use it at once
        store_unconfirmed(config.paths.state, Unconfirmed(confirm))
    try:
        return _run(partial(join, token, config, time.time, _report))
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
        beside = replace(config, paths=replace(config.paths, state=spare))
        record = _run(partial(join, token, beside, time.time, _report))
        assert record is not None
    if former is not None:
        _report(f"leaving the former membership {former.namespace}/{former.member}")
        remains = _ask_to_leave(config.paths.runtime)
        if remains is None:
            remains = _leave_without_agent(config)
        same = (record.namespace, record.member) == (former.namespace, former.member)
        for what in () if same else remains:
            _report(f"remains in the former cluster: {what}")
    if confirm is not None:
        store_unconfirmed(config.paths.state, Unconfirmed(confirm))
    adopt_join(spare, config.paths.state)
    return record


def _notify_agent(runtime: Path, *, wait: bool) -> str | None:
    """Notify the agent of the join; returns its last reported state, None if no agent runs."""
    state: str | None = None
    waiting, started = None, False
    try:
        for line in send_command(runtime, "joined", ANSWER_TIMEOUT):
            before, state = state, str(line.get("state"))
            started = started or state not in ("unjoined", "joining")  # before, it has not read the new files
            if wait and started and state != before:
                _report(f"agent: {state}")
            if wait and started and line.get("waiting") != waiting and (waiting := line.get("waiting")):
                _report(f"waiting for {waiting[0]}")
            if not wait or state == "ready" or (started and state in ("unjoined", "evicted")):
                return state
    except NoAgent:
        pass
    return state


def _notify_agent_when_up(runtime: Path, *, wait: bool) -> str | None:
    deadline = time.monotonic() + UNIT_START_TIMEOUT
    while time.monotonic() < deadline:
        state = _notify_agent(runtime, wait=wait)
        if state is not None:
            return state
        time.sleep(0.2)
    _report(f"the agent of {UNIT} does not answer; its log: journalctl -u {UNIT}")
    return None


def _start_unit() -> bool:
    """Start the agent's unit, if this system has systemd and the unit."""
    if not Path("/run/systemd/system").is_dir():
        return False
    if subprocess.run(["systemctl", "cat", UNIT], capture_output=True, check=False).returncode != 0:
        return False
    _report(f"starting {UNIT}")
    return subprocess.run(["systemctl", "start", "--no-block", UNIT], check=False).returncode == 0


def leave_machine(config: Config, *, in_json: bool) -> int:
    """Leave, with or without an agent. Returns the exit code."""
    record, remains, unremoved = None, list[str](), None
    if config.paths.state.exists() or config.paths.runtime.exists():  # otherwise exclave was never used here
        make_folder(config.paths.runtime, 0o755)
        with hold_join_lock(config.paths.runtime):
            record, remains, unremoved = _leave(config)
    if record is None and not remains:
        _report("this machine is not a member")
    elif record is not None:
        _report(f"left {record.namespace}/{record.member}")
    for what in remains:
        kind, _, name = what.partition(" ")
        namespace, _, name = name.partition("/")
        removal = f"kubectl -n {namespace} delete {kind.lower()} {name}"
        _report(f"remains in the cluster: {what}; an admin removes it: {removal}")
    if unremoved is not None:
        raise unremoved
    return _print_result({"left": record is not None, "remains": remains}, in_json=in_json)


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
            _report("the agent is leaving")
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
        _report("no agent runs; leaving without one")
        return list(_run(partial(depart, record, config, time.time)))


def confirm_rules(config: Config, *, in_json: bool) -> int:
    """Make unconfirmed rules permanent, with or without an agent. Returns the exit code."""
    try:
        confirmed = bool(query_agent(config.paths.runtime, "confirm").get("confirmed"))
    except NoAgent:
        confirmed = forget_unconfirmed(config.paths.state)
        if confirmed:
            _run(confirm_from_cold)
    _report("confirmed: the rules are permanent" if confirmed else "there was nothing to confirm")
    return _print_result({"confirmed": confirmed}, in_json=in_json)


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
            _report(f"{problem.message}; cleaning up without the lock")
        else:
            (config.paths.runtime / CONTROL).unlink(missing_ok=True)  # left by an agent that was killed
        done = _run(partial(clean_up, config))
    for line in done:
        _report(line)
    if (config.paths.state / MEMBERSHIP).exists():
        _report("this machine is still a member, and pods may still send traffic here: exclave run, or exclave leave")
    return _print_result({"done": done}, in_json=in_json)


def swap_proxy(runtime: Path, *, forced: bool, in_json: bool) -> int:
    """Let the agent swap the proxy; returns the exit code. Raises NoAgent, or HostError if the agent is too old."""
    last: dict[str, Any] = {}
    reported = None
    for line in send_command(runtime, "swap-forced" if forced else "swap", ANSWER_TIMEOUT):
        last = line
        if (step := line.get("step")) is not None and step != reported:
            reported = step
            _report(f"{step}{f' ({count} connections)' if (count := line.get('clients')) else ''}")
    if not last.keys() & {"swapped", "error"}:
        raise NoAgent
    if "code" not in last.get("error", {"code": 0}):
        raise HostError(
            Fault.ANOTHER_AGENT,
            "the running agent is an older version, which cannot move traffic",
            "let the new version take over, which does not affect traffic: systemctl reload exclave",
        )
    if in_json:
        print(json.dumps(last))
    elif "swapped" in last:
        done = last["swapped"]
        _report(f"traffic moved from proxy {done['from']} to proxy {done['to']} in {done['seconds']:.1f} s")
    else:
        _report(f"exclave: {last['error']['message']}\n  to do: {last['error']['hint']}")
    return int(last["error"]["code"]) if "error" in last else 0


def _print_result(result: dict[str, Any], *, in_json: bool) -> int:
    if in_json:
        print(json.dumps(result))
    return 0


def _run(work: Callable[[], Awaitable[T]]) -> T:
    return trio.run(work, strict_exception_groups=True)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
