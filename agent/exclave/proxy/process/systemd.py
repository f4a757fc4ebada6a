"""systemd's part in an instance: the state of its unit, and the commands to start, signal and stop it.

As root, `systemctl` talks to systemd itself, also on a machine without D-Bus; `systemd-run --wait` needs D-Bus.
Sources: systemctl(1), systemd.exec(5), org.freedesktop.systemd1(5).
"""

import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass

import trio

from exclave.errors import HostError
from exclave.kit.host.command import Finished, run_command
from exclave.kit.systemd.service_job import is_booted
from exclave.proxy.process.binary import unusable
from exclave.proxy.process.held import describe_end

TEMPLATE = "exclave-proxy@.service"

COMMAND_TIME = 20.0  # seconds for one command of systemctl or journalctl; a start needs a few milliseconds

PROPERTIES = (
    "LoadState", "ActiveState", "MainPID", "InvocationID", "ExecMainCode", "ExecMainStatus", "Result", "User",
    "MemoryMax",
)  # fmt: skip

RUNNING = frozenset({"activating", "active", "reloading", "deactivating"})  # values of ActiveState with a process

_CLD_EXITED = 1  # ExecMainCode, as si_code of waitid(2)

_OOM = "was ended by the kernel: it used more memory than its unit allows (MemoryMax)"


def may_have_units() -> bool:
    """True if systemd runs this machine and can be asked for units."""
    return is_booted() and shutil.which("systemctl") is not None


def is_run_by_systemd() -> bool:
    """True if systemd started this process itself. A shell in a session inherits INVOCATION_ID, and has another pid."""
    return "INVOCATION_ID" in os.environ and os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


@dataclass(frozen=True)
class UnitState:
    """A unit, as systemd reports it. Made by `parse_state`.

    `active`: ActiveState. `pid`: its main process, 0 without one. `invocation`: identifies one start, "" before the
    first one. `status`: of the last main process (negative: a signal). `memory_max`: bytes, None without a limit.
    """

    is_installed: bool
    active: str
    pid: int
    invocation: str
    status: int
    result: str
    user: str
    memory_max: int | None

    @property
    def is_running(self) -> bool:
        """True if it has a main process."""
        return self.active in RUNNING and self.pid > 0

    @property
    def has_exited(self) -> bool:
        """True if its main process has ended well, and the unit stays active (RemainAfterExit)."""
        return self.active == "active" and self.pid == 0


def parse_state(text: str) -> UnitState:
    """Parse the output of `systemctl show`. Raises ValueError."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if missing := [name for name in PROPERTIES if name not in found]:
        raise ValueError(f"systemctl did not print {', '.join(missing)}")
    code, status, limit = int(found["ExecMainCode"]), int(found["ExecMainStatus"]), found["MemoryMax"]
    return UnitState(
        found["LoadState"] == "loaded",
        found["ActiveState"],
        int(found["MainPID"]),
        found["InvocationID"],
        status if code in (0, _CLD_EXITED) else -status,
        found["Result"],
        found["User"],
        None if limit == "infinity" else int(limit),
    )


def describe_unit_end(state: UnitState, line: str = "") -> str:
    """The end of a unit's last process, for a person. `line`: its last line."""
    if state.result == "oom-kill":
        return f"{_OOM}: {line}" if line else _OOM
    return describe_end(state.status, line)


_TO_ESCAPE, _ESCAPED = re.compile(r'["\\`$]'), r"\\\g<0>"  # in double quotes


def render_environment(environment: Mapping[str, str]) -> str:
    """An EnvironmentFile. Values may have several lines. Source: systemd.exec(5), EnvironmentFile=."""
    return "".join(f'{name}="{_TO_ESCAPE.sub(_ESCAPED, value)}"\n' for name, value in environment.items())


# Commands


async def show_unit(unit: str) -> UnitState:
    """The state of a unit. Raises HostError."""
    done = await _run("systemctl", "show", f"--property={','.join(PROPERTIES)}", unit)
    try:
        return parse_state(done.output.decode("utf-8", "replace"))
    except ValueError as problem:
        reason = done.errors or str(problem)
        raise unusable(f"systemd did not report the state of {unit}: {reason}", f"systemctl show {unit}") from None


async def start_unit(unit: str) -> None:
    """Start a unit, or start it again; returns when its program runs. Raises HostError with systemd's reason."""
    done = await _run("systemctl", "--no-ask-password", "restart", unit)
    if done.status != 0:
        reason = next(iter(done.errors.splitlines()), f"systemctl ended with status {done.status}")
        raise unusable(f"systemd did not start {unit}: {reason}", f"see why: journalctl -u {unit}")


async def signal_unit(unit: str, number: signal.Signals) -> str | None:
    """Send a signal to the main process of a unit; None, or why it was not sent. Raises HostError.

    The agent has no right to signal processes of another user (CAP_KILL): systemd does it.
    """
    done = await _run("systemctl", "--no-ask-password", "kill", "--kill-whom=main", f"--signal={number.name}", unit)
    return None if done.status == 0 else done.errors or f"systemctl ended with status {done.status}"


async def stop_units_nowait(*units: str) -> None:
    """Let systemd end units, also those whose start is still queued. Raises HostError.

    It must not be waited for: while the agent itself is being stopped, these jobs are queued behind that.
    """
    await _run("systemctl", "--no-ask-password", "--no-block", "stop", *units)


async def forget_failure(*units: str) -> None:
    """Let failed units count as stopped, so that the machine does not count as degraded. Raises HostError."""
    await _run("systemctl", "--no-ask-password", "reset-failed", *units)


async def read_output(invocation: str, lines: int) -> str:
    """The last lines that a unit printed since this start; "" if there are none, or no journal."""
    if not invocation:
        return ""
    try:
        await _run("journalctl", "--sync")  # what it printed just before its end may not be in the journal yet
        shown = ("--quiet", "--no-pager", "--output=cat", f"--lines={lines}")
        done = await _run("journalctl", *shown, f"_SYSTEMD_INVOCATION_ID={invocation}")
    except HostError:
        return ""
    return done.output.decode("utf-8", "replace")


async def _run(*command: str) -> Finished:
    """Run a command of systemd to its end. Raises HostError if it is missing or hangs."""
    try:
        return await run_command(command, timeout=COMMAND_TIME)
    except OSError as problem:
        text = f"the program {command[0]} cannot be run: {problem.strerror}"
        raise unusable(text, "it is part of systemd, which runs this machine: install systemd again") from None
    except trio.TooSlowError:
        text = f"{' '.join(command)} did not end within {COMMAND_TIME:.0f} s"
        raise unusable(text, "see whether systemd answers: systemctl list-jobs") from None
