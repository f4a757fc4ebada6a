"""Commands that change what this machine is: join, leave, clean up; with the agent that runs, or without one.

Rules: joining and leaving are the agent's affair where one runs, and done from cold where none does; both may be
repeated. Progress goes to standard error line by line; with `--json` one object goes to standard output at the end.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from exclave.api.join_token import decode_token
from exclave.config import Config
from exclave.confirm.record import Unconfirmed, forget_unconfirmed, store_unconfirmed
from exclave.control.client import SOCKET_NAME as CONTROL
from exclave.control.client import NoAgent, query_agent, send_command
from exclave.daemon.teardown import clean_up, depart, forget_everything, hold_join_lock
from exclave.errors import ExclaveError, Fault, HostError
from exclave.join.join import join
from exclave.kit.formats.duration import format_duration
from exclave.kit.host.atomic import remove_folder
from exclave.kit.host.locks import hold_lock
from exclave.member.record import AGAIN, MEMBERSHIP, MembershipRecord, adopt_join, load_membership, make_folder
from exclave.redirect.kernel.nft import confirm_from_cold

UNIT = "exclave.service"

UNIT_START = 30.0
"""Seconds for the agent of a unit to answer."""

ANSWER = 30.0
"""Seconds between two words of the agent; it says something every few."""

LEAVING = 180.0
"""Seconds for an agent to walk all the way back: withdrawal, drain, proxy, deregistration."""


def join_and_tell(
    token: str, config: Config, *, wait: bool, in_json: bool, again: bool = False, confirm: float | None = None
) -> int:
    """Join, tell the agent, and wait until it is ready if `wait`; the exit code.

    `again`: also if this machine is a member already, which it stays until the new membership stands. With `confirm`
    the rules go back by themselves after so many seconds, unless somebody confirms them.
    """
    make_folder(config.paths.state, 0o700)
    make_folder(config.paths.runtime, 0o755)
    with hold_join_lock(config.paths.runtime):
        former = load_membership(config.paths.state)
        spare = config.paths.state / AGAIN
        if load_membership(spare) is not None or (former is not None and (again or _names(token, former))):
            record = _join_beside(token, config, spare, former, confirm)
        else:
            record = _join_here(token, config, confirm)
    if confirm is not None:
        _say(f"the rules go back by themselves {format_duration(confirm)} after they were made, unless confirmed:")
        _say("log in anew, to see that it works; then: exclave confirm")
    told = {"joined": {"namespace": record.namespace, "group": record.group, "member": record.member}}
    state = _tell_agent(config.paths.runtime, wait=wait)
    if state is None and _start_unit():
        state = _tell_agent_when_up(config.paths.runtime, wait=wait)
    if state is None:
        _say("no agent runs on this machine; start it: exclave run")
    if in_json:
        print(json.dumps({**told, "state": state}))
    return 0 if state in (None, "ready") or not wait else 3


def _names(token: str, record: MembershipRecord) -> bool:
    """Whether a token is for this very member, whose machine joins again."""
    found = decode_token(token)
    return found.is_for_one and (found.namespace, *found.member_names) == (record.namespace, record.member)


def _join_here(token: str, config: Config, confirm: float | None) -> MembershipRecord:
    """Join. That rules are to be confirmed is noted before there is a membership: an agent may see that at once."""
    if confirm is not None:
        store_unconfirmed(config.paths.state, Unconfirmed(confirm))
    try:
        joined: MembershipRecord = _run(partial(join, token, config, time.time, _say))
    except BaseException:
        if confirm is not None and load_membership(config.paths.state) is None:
            forget_unconfirmed(config.paths.state)
        raise
    return joined


def _join_beside(
    token: str, config: Config, spare: Path, former: MembershipRecord | None, confirm: float | None
) -> MembershipRecord:
    """Join in a folder of its own, and only then leave what was: a token that does not serve changes nothing.

    One that came to its end before, and was not taken over, is taken over now.
    """
    record = load_membership(spare)
    if record is None:
        beside = replace(config, paths=replace(config.paths, state=spare))
        record = _run(partial(join, token, beside, time.time, _say))
        assert record is not None
    if former is not None:
        _say(f"leaving what was {former.namespace}/{former.member}")
        remains = _ask_to_leave(config.paths.runtime)
        if remains is None:
            remains = _leave_from_cold(config)
        same = (record.namespace, record.member) == (former.namespace, former.member)
        for what in () if same else remains:
            _say(f"remains where it was: {what}")
    if confirm is not None:
        store_unconfirmed(config.paths.state, Unconfirmed(confirm))
    adopt_join(spare, config.paths.state)
    return record


def _tell_agent(runtime: Path, *, wait: bool) -> str | None:
    """Tell the agent; the last state it told, None if there is no agent."""
    state: str | None = None
    waiting, started = None, False
    try:
        for line in send_command(runtime, "joined", ANSWER):
            before, state = state, str(line.get("state"))
            started = started or state not in ("unjoined", "joining")  # it has not looked at the disk yet
            if wait and started and state != before:
                _say(f"agent: {state}")
            if wait and started and line.get("waiting") != waiting and (waiting := line.get("waiting")):
                _say(f"waiting for {waiting[0]}")
            if not wait or state == "ready" or (started and state in ("unjoined", "evicted")):
                return state
    except NoAgent:
        return state
    return state


def _tell_agent_when_up(runtime: Path, *, wait: bool) -> str | None:
    deadline = time.monotonic() + UNIT_START
    while time.monotonic() < deadline:
        state = _tell_agent(runtime, wait=wait)
        if state is not None:
            return state
        time.sleep(0.2)
    _say(f"the agent of {UNIT} does not answer; see: journalctl -u {UNIT}")
    return None


def _start_unit() -> bool:
    """Start the agent's unit, if this system has systemd and the unit."""
    if not Path("/run/systemd/system").is_dir():
        return False
    known = subprocess.run(["systemctl", "cat", UNIT], capture_output=True, check=False).returncode == 0
    if not known:
        return False
    _say(f"starting {UNIT}")
    return subprocess.run(["systemctl", "start", "--no-block", UNIT], check=False).returncode == 0


def leave_or_depart(config: Config, *, in_json: bool) -> int:
    """Leave, by the agent or from cold; the exit code."""
    record, remains, unremoved = None, list[str](), None
    if config.paths.state.exists() or config.paths.runtime.exists():  # else nothing of exclave's was ever here
        make_folder(config.paths.runtime, 0o755)
        with hold_join_lock(config.paths.runtime):
            record, remains, unremoved = _leave(config)
    if record is None and not remains:
        _say("this machine is no member")
    elif record is not None:
        _say(f"left {record.namespace}/{record.member}")
    for what in remains:
        kind, _, name = what.partition(" ")
        namespace, _, name = name.partition("/")
        _say(
            f"remains in the cluster: {what}; an admin removes it: kubectl -n {namespace} delete {kind.lower()} {name}"
        )
    if unremoved is not None:
        raise unremoved
    if in_json:
        print(json.dumps({"left": record is not None, "remains": remains}))
    return 0


def _leave(config: Config) -> tuple[MembershipRecord | None, list[str], HostError | None]:
    """What this machine was, what remains in the cluster, and which files could not be removed."""
    record, unremoved = load_membership(config.paths.state), None
    try:
        remove_folder(config.paths.state / AGAIN)  # of a join that did not come to its end; it may hold a credential
    except HostError as problem:
        unremoved = problem  # leaving matters more: this is raised after it
    remains = _ask_to_leave(config.paths.runtime)
    return record, _leave_from_cold(config) if remains is None else remains, unremoved


def _ask_to_leave(runtime: Path) -> list[str] | None:
    """Have the agent leave; what remains, None if no agent has done it. Raises ExclaveError in the agent's words."""
    try:
        for line in send_command(runtime, "leave", LEAVING):
            if (error := line.get("error")) is not None:
                fault = next((one for one in Fault if one.code == error.get("code")), Fault.DISK)
                raise ExclaveError(fault, str(error.get("message")), str(error.get("hint")))
            if "remains" in line:
                return [str(what) for what in line["remains"]]
            _say("the agent walks back")
    except NoAgent:
        pass
    return None


def _leave_from_cold(config: Config) -> list[str]:
    if not config.paths.state.exists():
        return []
    make_folder(config.paths.runtime, 0o755)
    hint = "it does not answer: stop it, for instance with systemctl stop exclave, then leave again"
    with hold_lock(config.paths.runtime / "agent.lock", "an agent", hint):
        record = load_membership(config.paths.state)
        if record is None:
            forget_everything(config.paths)
            _run(partial(clean_up, config))  # an agent may have fallen over after it forgot, with rules still there
            return []
        _say("no agent runs; walking back without one")
        return list(_run(partial(depart, record, config, time.time)))


def confirm_rules(config: Config, *, in_json: bool) -> int:
    """Have the rules for good, by the agent or from cold; the exit code."""
    try:
        confirmed = bool(query_agent(config.paths.runtime, "confirm").get("confirmed"))
    except NoAgent:
        confirmed = forget_unconfirmed(config.paths.state)
        if confirmed:
            _run(confirm_from_cold)
    _say("confirmed: the rules stay" if confirmed else "there was nothing to confirm")
    if in_json:
        print(json.dumps({"confirmed": confirmed}))
    return 0


def clean_up_from_cold(config: Config, *, in_json: bool) -> int:
    """Remove rules, proxies and link; the exit code. Refuses while an agent would only make them again.

    Needs neither a membership nor a folder: where no lock can be taken, no agent could have taken one.
    """
    hint = "stop it first, or leave: exclave leave"
    with ExitStack() as stack:
        try:
            make_folder(config.paths.runtime, 0o755)
            stack.enter_context(hold_lock(config.paths.runtime / "agent.lock", "an agent", hint))
        except HostError as problem:
            if problem.fault is not Fault.DISK:
                raise
            _say(f"{problem.message}; cleaning up without it")
        else:
            (config.paths.runtime / CONTROL).unlink(missing_ok=True)  # of an agent that was killed
        done = _run(partial(clean_up, config))
    for line in done:
        _say(line)
    if (config.paths.state / MEMBERSHIP).exists():
        _say("this machine is still a member, and pods may still be sent here: exclave run, or exclave leave")
    if in_json:
        print(json.dumps({"done": done}))
    return 0


def swap_and_tell(runtime: Path, *, forced: bool, in_json: bool) -> int:
    """Have the agent move traffic to another proxy instance, and say how that went; the exit code.

    Raises NoAgent, and HostError if the agent that runs is too old to know of swaps.
    """
    last: dict[str, Any] = {}
    told = None
    for line in send_command(runtime, "swap-forced" if forced else "swap", ANSWER):
        last = line
        if (step := line.get("step")) is not None and step != told:
            told = step
            _say(f"{step}{f' ({count} connections)' if (count := line.get('clients')) else ''}")
    if not last.keys() & {"swapped", "error"}:
        raise NoAgent
    if "code" not in last.get("error", {"code": 0}):
        raise HostError(
            Fault.ANOTHER_AGENT,
            "the agent that runs is an older one, which cannot move traffic",
            "let the new one take over, which touches no traffic: systemctl reload exclave",
        )
    if in_json:
        print(json.dumps(last))
    elif "swapped" in last:
        done = last["swapped"]
        _say(f"traffic moved from proxy {done['from']} to proxy {done['to']} in {done['seconds']:.1f} s")
    else:
        _say(f"exclave: {last['error']['message']}\n  to do: {last['error']['hint']}")
    return int(last["error"]["code"]) if "error" in last else 0


def _run(work: Callable[[], Any]) -> Any:
    return trio.run(work, strict_exception_groups=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
