"""Instances as units of systemd: `exclave-proxy@a.service` and `@b`. Nothing that happens to the agent touches them.

The unit's state is the truth. A record adds what systemd does not know: the digests of environment and binary. A third
unit, `@check`, runs the binary with the same user and limits, without a configuration: it prints its version and ends.
"""

import logging
import os
import signal
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import trio

from exclave.config import ProxyConfig
from exclave.errors import Fault, HostError
from exclave.kit.host.accounts import find_user
from exclave.kit.host.command import Finished
from exclave.kit.host.files import remove, remove_folder, write_atomic
from exclave.kit.host.gated import HeldProcess
from exclave.kit.host.procfs import has_capability, has_user_namespaces, open_pidfd
from exclave.kit.systemd.service_job import is_booted
from exclave.kit.tasks.nursery import shielded
from exclave.link.layout import INSTANCES, Instance, dns_address
from exclave.proxy.process.binary import (
    GREETING_ENVIRONMENT,
    GREETING_TIME,
    ProxyUser,
    check_binary,
    check_file,
    check_greeting,
    endless,
    find_proxy_user,
    unusable,
)
from exclave.proxy.process.held import end_process
from exclave.proxy.process.systemd import (
    RUNNING,
    TEMPLATE,
    UnitState,
    describe_unit_end,
    forget_failure,
    is_run_by_systemd,
    read_output,
    render_environment,
    show_unit,
    signal_unit,
    start_unit,
    stop_units_nowait,
)

log = logging.getLogger(__name__)

FOLDER = "proxy-etc"  # the proxies' /etc

UnitName = Literal["a", "b", "check"]

CHECK: Final = "check"

PROGRAM = "EXCLAVE_PROXY"  # the variable that names the binary to the unit's shell

POLL_INTERVAL = 0.05  # seconds between two questions to systemd, which takes some milliseconds to notice an end
NOTICE_TIME = 10.0  # seconds for systemd to notice that a process has ended
ACTIVATION_TIME = 2.0  # seconds for a unit that an earlier agent has just started to run its program
UNDO_TIME = 5.0  # seconds to undo a start that failed or was cancelled
OTHERS_TIME = 2.0  # seconds in which an instance that somebody else has started may end its connections

CAP_SETUID = 7  # linux/capability.h

_GREETING_LINES = 20

_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"


def unit_of(name: UnitName) -> str:
    """The unit of an instance, or of the version check."""
    return TEMPLATE.replace("@", f"@{name}")


def environment_path(runtime: Path, name: UnitName) -> Path:
    """The EnvironmentFile of a unit."""
    return runtime / f"proxy-{name}.env"


class UnitProcess:
    """The main process of a unit, held by a pidfd."""

    def __init__(self, unit: str, process: HeldProcess, invocation: str) -> None:
        self.pid = process.pid
        self.invocation = invocation
        self._unit = unit
        self._process = process

    async def send(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs. A failure is logged: the next signal, or systemd, ends it."""
        try:
            refused = await signal_unit(self._unit, number)
        except HostError as problem:
            refused = problem.message
        if refused is not None and not self._process.has_ended():
            log.warning("%s: %s was not sent by systemd: %s", self._unit, number.name, refused)
            try:
                self._process.send(number)  # a command of root may do so, the agent's unit has no CAP_KILL
            except PermissionError:
                log.warning("%s: %s was not sent: this process may not signal it", self._unit, number.name)

    async def wait_end(self) -> None:
        """Wait until it has ended."""
        await self._process.wait_end()

    async def wait(self) -> str:
        """Wait until it has ended; how it ended, for a person. The unit is then as if it had never failed."""
        await self.wait_end()
        try:
            # systemd takes some milliseconds to notice the end.
            state = await wait_ended(self._unit, NOTICE_TIME, self.invocation)
            line = await read_output(self.invocation, 1)
            if state.active == "failed":
                await forget_failure(self._unit)
        except HostError as problem:
            return f"ended ({problem.message})"
        if state.invocation not in ("", self.invocation):  # systemd forgets a unit that ended well
            return "ended, and somebody started its unit again"
        return describe_unit_end(state, line.strip())

    def close(self) -> None:
        """Release it. It continues."""
        self._process.close()


def render_resolv_conf(dns_address: str) -> str:
    """The resolv.conf of instances."""
    return f"nameserver {dns_address}\noptions ndots:0\n"


async def find_process(instance: Instance) -> UnitProcess | None:
    """The running process of an instance's unit; None without one. Raises HostError."""
    unit = unit_of(instance)
    state = await show_unit(unit)
    with trio.move_on_after(ACTIVATION_TIME):
        while state.active == "activating":
            await trio.sleep(POLL_INTERVAL)
            state = await show_unit(unit)
    while state.is_running:
        pidfd = open_pidfd(state.pid)
        held, state = state, await show_unit(unit)  # its number cannot be used again between these two
        if pidfd is not None and (held.pid, held.invocation) == (state.pid, state.invocation):
            return UnitProcess(unit, HeldProcess(state.pid, pidfd), state.invocation)
        if pidfd is not None:
            os.close(pidfd)
    return None


async def forget_end(instance: Instance) -> str | None:
    """Reset the failed state of an instance's unit. Returns how it failed, None if it did not. Raises HostError."""
    unit = unit_of(instance)
    state = await show_unit(unit)
    if state.active != "failed":
        return None
    await forget_failure(unit)
    return await _read_end(state)


async def _read_end(state: UnitState) -> str:
    line = await read_output(state.invocation, 1)
    return describe_unit_end(state, line.strip())


async def wait_ended(unit: str, limit: float, invocation: str | None = None) -> UnitState:
    """The state of a unit once it has ended, or is no longer `invocation`; its last one after `limit` seconds.

    Raises HostError.
    """
    state = await show_unit(unit)
    with trio.move_on_after(limit):
        while state.active in RUNNING and not state.has_exited and invocation in (None, state.invocation):
            await trio.sleep(POLL_INTERVAL)
            state = await show_unit(unit)
    return state


async def stop_all() -> None:
    """Let systemd end what is left of the units: a start that is still queued, a failed state. Raises HostError."""
    units = [unit_of(name) for name in (*INSTANCES, CHECK)]
    await stop_units_nowait(*units)
    await forget_failure(*units)


def unit_files(runtime: Path) -> list[Path]:
    """The files for the units, then their folder."""
    return [*(environment_path(runtime, name) for name in (*INSTANCES, CHECK)), runtime / FOLDER]


def remove_unit_files(runtime: Path) -> None:
    """Remove the files for the units. Raises HostError."""
    *files, folder = unit_files(runtime)
    for path in files:
        remove(path)
    remove_folder(folder)


async def _start(unit: str) -> None:
    try:
        await start_unit(unit)
    except HostError as error:
        if not has_user_namespaces():
            raise unusable(
                f"{error.message}; this machine permits no user namespaces, and the unit has PrivateUsers=yes",
                "permit them: sysctl user.max_user_namespaces=15000; or do without: "
                f"systemctl edit {TEMPLATE}, [Service] PrivateUsers=no",
            ) from None
        raise


async def _undo(unit: str) -> None:
    with suppress(HostError), shielded(UNDO_TIME):  # if it fails, the next agent finds the unit
        await stop_units_nowait(unit)
        await forget_failure(unit)


class Units:
    """The units of one agent. Made by `open_units`."""

    def __init__(self, runtime: Path, user: ProxyUser) -> None:
        self._runtime = runtime
        self._user = user

    def write_etc(self, dns_address: str) -> None:
        """Write the files that replace the machine's /etc for the proxies. Raises HostError."""
        name, uid, gid = self._user.name, self._user.uid, self._user.gid
        files = {
            "resolv.conf": render_resolv_conf(dns_address),
            "nsswitch.conf": _NSSWITCH,
            "hosts": _HOSTS,
            "passwd": f"{name}:x:{uid}:{gid}::/:/usr/sbin/nologin\n",
            "group": f"{name}:x:{gid}:\n",
        }
        folder = self._runtime / FOLDER
        try:
            folder.mkdir(mode=0o755, exist_ok=True)
            folder.chmod(0o755)  # the agent's umask may forbid it to others
        except OSError as problem:
            raise HostError(
                Fault.DISK, f"cannot make {folder}: {problem.strerror}", "make its folder exist and writable for root"
            ) from problem
        for file, text in files.items():
            write_atomic(folder / file, text.encode(), 0o644)

    async def check(self, binary: Path) -> str | None:
        """The version of the binary, None if it prints none. Raises HostError if it cannot be used."""
        check_file(binary)
        unit = unit_of(CHECK)
        try:
            self._write_environment(CHECK, binary, GREETING_ENVIRONMENT)
            await _start(unit)
            state = await wait_ended(unit, GREETING_TIME)
            if state.active in RUNNING and not state.has_exited:
                raise endless(binary)
            output = await read_output(state.invocation, _GREETING_LINES)
            return check_greeting(binary, self._user, Finished(state.status, output.encode(), output.strip()))
        finally:
            await _undo(unit)
            remove(environment_path(self._runtime, CHECK))

    async def start(self, instance: Instance, binary: Path, environment: Mapping[str, str]) -> UnitProcess:
        """Start an instance. If it fails or is cancelled, the caller must undo it. Raises HostError."""
        unit = unit_of(instance)
        self._write_environment(instance, binary, environment)
        await _start(unit)
        process = await find_process(instance)
        if process is None:
            end = await _read_end(await show_unit(unit))
            raise unusable(f"proxy {instance} {end}", f"journalctl -u {unit}")
        return process

    async def undo(self, instance: Instance) -> None:
        """Undo a start that failed or was cancelled."""
        await _undo(unit_of(instance))

    async def end_others(self, used: Collection[Instance]) -> None:
        """End the instances that are not in `used`: somebody else has started them. Raises HostError."""
        for instance in INSTANCES:
            if instance not in used and (process := await find_process(instance)) is not None:
                log.warning("proxy %s: somebody started its unit, so it is ended: the agent alone starts it", instance)
                try:
                    await end_process(process, OTHERS_TIME)
                finally:
                    process.close()

    def _write_environment(self, name: UnitName, binary: Path, variables: Mapping[str, str]) -> None:
        text = render_environment({PROGRAM: str(binary), **variables})
        write_atomic(environment_path(self._runtime, name), text.encode("utf-8", "surrogateescape"))


async def open_units(runtime: Path, config: ProxyConfig, user: ProxyUser) -> Units | None:
    """The units, None if instances are children of the agent. Raises HostError if the units do not fit `config`."""
    if not (is_booted() and is_run_by_systemd()):
        return None  # nothing is asked of systemd
    state = await show_unit(unit_of("a"))
    if not state.is_installed:
        log.warning("proxy: the unit %s is not installed, so the proxies are part of the agent's unit", TEMPLATE)
        return None
    await _check_user(state, config, user)
    if state.memory_max is not None and state.memory_max <= config.memory_limit:
        log.warning(
            "proxy: its unit allows %d bytes of memory, not more than [proxy] memory_limit: the kernel ends a proxy "
            "that grows, before the agent can replace it; to do: systemctl edit %s, [Service] MemoryMax=",
            state.memory_max,
            TEMPLATE,
        )
    return Units(runtime, user)


async def check_proxy(config: ProxyConfig, runtime: Path, binary: Path | None = None) -> str | None:
    """The version of the proxy's binary, None if it is unknown. Runs it as the proxy's user, or as a unit does.

    `binary`: another one than the configured. A process that may do neither checks only that the file exists: the
    agent's own check follows. Raises HostError if the user or the binary cannot be used.
    """
    binary = binary or config.binary
    user = await find_proxy_user(config.user)
    if has_capability(CAP_SETUID):
        return await check_binary(binary, user)
    if (units := await open_units(runtime, config, user)) is not None:
        units.write_etc(dns_address())  # the unit needs it, and before a join no agent has written it
        return await units.check(binary)
    check_file(binary)
    return None


async def _check_user(state: UnitState, config: ProxyConfig, user: ProxyUser) -> None:
    try:
        found = await find_user(state.user)
    except trio.TooSlowError:
        found = None
    if found is None or found.uid != user.uid:
        raise unusable(
            f"[proxy] user is {config.user}, but {TEMPLATE} has User={state.user}",
            f"give both the same user: systemctl edit {TEMPLATE}, [Service] User={user.name}; or change config.toml",
        )
