"""The command wait: until traffic of this machine goes through the mesh, or this machine neither is a member nor joins.

For exclave-ready.service, which runs at boot: the agent may not have started yet. It does not wait for probes, since
the applications that would answer them may be ordered after it.
"""

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from exclave.cli.status_text import NO_AGENT
from exclave.config import Config
from exclave.control.client import NoAgent, send_command
from exclave.errors import error_object
from exclave.kit.formats.times import format_duration
from exclave.kit.host.output import failure_lines, print_err, print_json, print_out
from exclave.member.record import load_join, load_membership

JOIN_UNIT = "exclave-join.service"

NOT_IN_TIME = 3  # the exit code if the agent answers, and traffic does not go through the mesh in time

RETRY_INTERVAL = 0.25  # seconds between two attempts to reach an agent that is starting

ANSWER_TIMEOUT = 10.0  # seconds between two answers. A working agent sends one every two seconds.


def wait_redirected(config: Config, timeout: float, *, in_json: bool) -> int:
    """Wait for at most `timeout` seconds; returns the exit code. Raises HostError."""
    deadline = time.monotonic() + timeout
    last: dict[str, Any] | None = None  # the newest answer
    while _is_expected(config.paths.state) and not (last or {}).get("redirected"):
        left = deadline - time.monotonic()
        if left <= 0:
            return _report_late(_is_member(config.paths.state), last, timeout, in_json=in_json)
        last = _read_answers(config, min(left, ANSWER_TIMEOUT), deadline) or last
    is_member = _is_member(config.paths.state)
    if in_json:
        print_json({"member": is_member, "redirected": is_member})
    else:
        print_out("traffic of this machine goes through the mesh" if is_member else "this machine is not a member")
    return 0


def _read_answers(config: Config, timeout: float, deadline: float) -> dict[str, Any] | None:
    """The last answer of the agent, once it is final or the time is over; None if no agent answered."""
    last = None
    try:
        for last in send_command(config.paths.runtime, "redirected", timeout):
            is_over = last.get("redirected") or time.monotonic() >= deadline
            if is_over or not _is_expected(config.paths.state):
                return last
    except NoAgent:
        pass
    time.sleep(min(RETRY_INTERVAL, max(0.0, deadline - time.monotonic())))
    return last


def _is_member(state: Path) -> bool:
    return load_membership(state) is not None


def _is_expected(state: Path) -> bool:
    """True for a member, and while a join is under way: at the boot of an image it is tried again until it succeeds."""
    join = load_join(state)
    return _is_member(state) or (join is not None and not join.refusal) or _is_join_retried()


def _is_join_retried() -> bool:
    """True while systemd is about to run `exclave join` again, also if the last one failed before it began to join."""
    from exclave.kit.systemd.service_job import is_booted  # imports trio, which the others do without

    if not is_booted():
        return False
    with suppress(OSError, subprocess.TimeoutExpired):
        words = ["systemctl", "show", "--property=ActiveState", "--value", JOIN_UNIT]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT)
        return done.stdout.strip() == "activating"
    return False


def _report_late(is_member: bool, last: dict[str, Any] | None, timeout: float, *, in_json: bool) -> int:
    if not is_member:
        code, word = NOT_IN_TIME, "not-joined"
        message = f"this machine began to join, and is not a member after {format_duration(timeout)}"
        hint = "see why: journalctl -u exclave-join; or give the join up: exclave leave"
    elif last is None:
        code, word = NO_AGENT, "no-agent"
        message = f"no agent answered within {format_duration(timeout)}"
        hint = "start it: systemctl start exclave; or exclave run"
    else:
        waits = last.get("waiting") or ["an unknown step: the running agent is another version"]
        code, word = NOT_IN_TIME, "not-redirected"
        message = f"traffic does not go through the mesh after {format_duration(timeout)}: waiting for {waits[0]}"
        hint = "see what is missing: exclave status"
    if in_json:
        print_json(error_object(code, word, message, hint))
    else:
        print_err(*failure_lines(message, hint))
    return code
