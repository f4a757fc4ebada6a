"""Launches processes of the proxy, each with the newest settings and the binary that is on disk now.

A child's chain is `unshare` (own mounts), a shell that waits at the gate (kit/host/gated) and mounts the private
resolv.conf, `setpriv` (own user only), then the proxy. Each one replaces the one before, so the pid stays the same.
"""

import errno
import logging
import os
import shutil
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import trio

from exclave.api.settings import Settings
from exclave.config import ProxyConfig
from exclave.errors import Fault, HostError
from exclave.kit.host.accepting import SHORTAGE_HINT, SHORTAGES
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.host.gated import GATE, GatedProcess, start_gated
from exclave.link.layout import (
    ADMIN_PORT,
    FAMILIES,
    INBOUND_PORT,
    INSTANCES,
    OUTBOUND_PORT,
    Family,
    Instance,
    instance_address,
)
from exclave.member.client import MemberClient
from exclave.milestones import Starting, log_milestone
from exclave.proxy.environment import anchors_digest, environment_digest, proxy_environment
from exclave.proxy.process.adoption import find_running
from exclave.proxy.process.binary import (
    SEARCH_PATH,
    BinaryId,
    ProxyUser,
    check_binary,
    identify_binary,
    setpriv_command,
    unusable,
)
from exclave.proxy.process.held import ChildProcess, InstanceProcess
from exclave.proxy.process.logfile import output_path, remove_output
from exclave.proxy.process.records import InstanceRecord, RecordFile, find_executable, unit_record
from exclave.proxy.process.units import Units, remove_unit_files, render_resolv_conf, stop_all, unit_of

log = logging.getLogger(__name__)

RESOLV_CONF = Path("/etc/resolv.conf")

EXEC_TIME = 2.0  # seconds for a child that an earlier agent has just released to execute the proxy, or to end

# Without -n, mount would leave its folder /run/mount on a host that has none. As slave, the namespace receives the
# host's mounts and the host none of its own. The private resolv.conf lasts until the host's file is replaced; by then
# the proxy has read it. util-linux is on every Debian and Fedora, and leaves no Python in the process.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "slave", "--")
_SHELL = f'{GATE}; exec </dev/null; cd /; mount -n --bind "$0" /etc/resolv.conf && exec "$@"'


class ProxyLauncher:
    """Launches processes: units of systemd if there are `units`, else children of the agent."""

    def __init__(
        self,
        config: ProxyConfig,
        user: ProxyUser,
        runtime: Path,
        membership: MemberClient,
        socket: Path,
        units: Units | None = None,
    ) -> None:
        self.config = config
        self.user = user
        self.runtime = runtime
        self.membership = membership
        self.records = RecordFile(runtime)
        self.units = units
        self.identity: BinaryId | None = None  # of the binary that was launched or adopted last
        self._socket = socket
        self._families: dict[Instance, tuple[Family, ...]] = {}  # as found last
        self._resolv_conf = runtime / "resolv.conf"

    def write_files(self, dns_address: str) -> None:
        """Write the files that replace the host's for instances, above all resolv.conf. Raises HostError."""
        if self.units is not None:
            self.units.write_etc(dns_address)
        else:
            write_atomic(self._resolv_conf, render_resolv_conf(dns_address).encode(), 0o644)

    def remove_files(self) -> None:
        """Remove every file for instances. Raises HostError."""
        remove(self._resolv_conf)
        remove_unit_files(self.runtime)
        for instance in INSTANCES:
            remove_output(self.runtime, instance)

    async def check(self) -> str | None:
        """Check that the binary can be run; its version, None if it prints none. Raises HostError."""
        if self.units is not None:
            return await self.units.check(self.config.binary)
        return await check_binary(self.config.binary, self.user)

    async def find_running(self) -> dict[Instance, tuple[InstanceRecord, InstanceProcess]]:
        """The instances that an earlier agent has started, with their processes. Other records are removed."""
        with trio.move_on_after(EXEC_TIME):
            while self.records.has_starting_child():  # noqa: ASYNC110  an exec causes no event
                await trio.sleep(0.02)
        return await find_running(self.runtime, has_units=self.units is not None)

    async def stop_units(self) -> None:
        """Let systemd forget starts that are still queued."""
        if self.units is not None:
            try:
                await stop_all()
            except HostError as problem:
                log.warning("proxy: %s", problem)

    async def end_others(self, used: Collection[Instance]) -> None:
        """End instances that are not in `used` and that no agent has started. Raises HostError."""
        if self.units is not None:
            await self.units.end_others(used)

    async def launch(
        self, instance: Instance, settings: Settings, version: str | None
    ) -> tuple[InstanceProcess, InstanceRecord]:
        """Launch a process and record it; `version` is the binary's. Raises HostError."""
        environment = self.environment(settings, instance)
        # Reading tens of megabytes again would double the time in which connections fail after the end of a proxy.
        identity = self.identity = await identify_binary(self.config.binary, self.identity)
        if self.units is not None:
            return await self._launch_unit(self.units, instance, environment, identity, version or "")
        return await self._launch_child(instance, environment, identity, version or "")

    async def _launch_child(
        self, instance: Instance, environment: dict[str, str], identity: BinaryId | None, version: str
    ) -> tuple[InstanceProcess, InstanceRecord]:
        binary, output = self.config.binary, output_path(self.runtime, instance)
        executable = find_executable(binary)
        gated = start_child(binary, self.user, environment, self._resolv_conf, output)
        log_milestone(Starting.PROXY_WAITS)

        def store(pid: int) -> InstanceRecord:
            record = self.records.add(
                instance,
                pid,
                executable,
                environment_digest(environment),
                identity,
                anchors_digest(environment),
                version,
            )
            log_milestone(Starting.PROXY_RECORDED)
            return record

        record = await gated.release(store)
        log_milestone(Starting.PROXY_RELEASED)
        return ChildProcess(gated.process, output), record

    async def _launch_unit(
        self, units: Units, instance: Instance, environment: dict[str, str], identity: BinaryId | None, version: str
    ) -> tuple[InstanceProcess, InstanceRecord]:
        # On record before it exists: an agent that is killed in between leaves no unit whose digests are unknown.
        record = unit_record(
            unit_of(instance), environment_digest(environment), identity, anchors_digest(environment), version
        )
        self.records.store(instance, record)
        log_milestone(Starting.PROXY_RECORDED)
        try:
            process = await units.start(instance, self.config.binary, environment)
            record = replace(record, pid=process.pid, invocation=process.invocation)
            self.records.store(instance, record)
        except BaseException:
            await units.undo(instance)
            with suppress(HostError):  # a record without a process does no harm
                self.records.drop(instance)
            raise
        return process, record

    def wanted_digest(self, settings: Settings, instance: Instance) -> str | None:
        """The digest of the environment that an instance should have; None while this machine has no address."""
        if not self.membership.captured.value:
            return None
        return environment_digest(self.environment(settings, instance))

    def find_families(self, instance: Instance) -> tuple[Family, ...]:
        """The address families that the private link has for an instance; during a shortage, those found last."""
        try:
            self._families[instance] = find_families(instance)
        except OSError as problem:
            log.warning("proxy %s: the private link's addresses are not read: %s", instance, problem.strerror)
        return self._families.get(instance, FAMILIES)

    def environment(self, settings: Settings, instance: Instance) -> dict[str, str]:
        """The environment for an instance. Raises HostError while this machine has no address."""
        if not self.membership.captured.value:
            raise unusable(
                "this machine has no address to have in the mesh",
                "give it a route to the API server, or set its address in config.toml: [member] address",
            )
        return proxy_environment(
            settings,
            self.membership.record.member,
            self.membership.captured.value,
            instance,
            self._socket,
            self.config.log,
            drain=self.config.drain,
            families=self.find_families(instance),
            cores=self.config.cores,
        )


def start_child(
    binary: Path, user: ProxyUser, environment: Mapping[str, str], resolv_conf: Path, output: Path
) -> GatedProcess:
    """Start the child, which waits at its gate and appends to `output`. Raises HostError if a program is missing."""
    if not RESOLV_CONF.exists():
        raise unusable(
            f"{RESOLV_CONF} is missing, and the proxy's own cannot be mounted over it",
            f"make it, empty if need be: touch {RESOLV_CONF}",
        )
    unshare = shutil.which(_OWN_MOUNTS[0], path=SEARCH_PATH)
    if unshare is None:
        raise unusable("the program unshare is not installed", "install it: apt install util-linux")
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        return start_gated(
            unshare,
            [*_OWN_MOUNTS, "sh", "-c", _SHELL, str(resolv_conf), *setpriv_command(user), str(binary)],
            {**environment, "PATH": SEARCH_PATH},
            [(os.POSIX_SPAWN_OPEN, 1, str(output), append, 0o640), (os.POSIX_SPAWN_DUP2, 1, 2)],
        )
    except OSError as problem:
        raise unusable(
            f"the proxy's process cannot be made: {problem.strerror}",
            f"see whether {output.parent} is writable, and whether this machine has room for processes",
        ) from problem


# Slots. Binding a socket never waits.


def choose_slot(used: Collection[Instance] = (), preferred: Instance | None = None) -> Instance:
    """The preferred slot, else the first one, with free ports that is not in `used`, the slots of our own processes.

    Raises HostError if no slot is free, or the link does not have its addresses.
    """
    slots = sorted(INSTANCES, key=lambda instance: instance != preferred)
    wanted = [instance for instance in slots if instance not in used]
    if not wanted:
        hint = "one of them is about to end: exclave status"
        raise HostError(Fault.OCCUPIED, "both instances of the proxy run already", hint)
    for instance in wanted:
        if all(_is_free(instance_address(instance), port) for port in (INBOUND_PORT, OUTBOUND_PORT, ADMIN_PORT)):
            return instance
    occupied = " and ".join(instance_address(instance) for instance in wanted)
    raise HostError(
        Fault.OCCUPIED,
        f"the proxy's ports on {occupied} are taken by processes that are not ours",
        f"see whose they are, and end them: ss -ltnp 'sport = :{ADMIN_PORT}'",
    )


def find_families(instance: Instance) -> tuple[Family, ...]:
    """The address families that the private link has for an instance; always with IPv4.

    Raises OSError during a shortage of descriptors or memory.
    """
    return tuple(family for family in FAMILIES if family == 4 or _is_there(instance_address(instance, family)))


def _is_free(address: str, port: int) -> bool:
    try:
        _bind(socket.SOCK_STREAM, address, port)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return False
        if problem.errno in SHORTAGES:
            raise unusable(f"the proxy's ports cannot be tried now: {problem.strerror}", SHORTAGE_HINT) from None
        raise HostError(
            Fault.OCCUPIED,
            f"the proxy cannot listen on {address}:{port}: {(problem.strerror or '').lower()}",
            "the link exclave0 should have that address: exclave cleanup, then start again",
        ) from None
    return True


def _is_there(address: str) -> bool:
    try:
        _bind(socket.SOCK_DGRAM, address, 0)
    except OSError as problem:
        if problem.errno in SHORTAGES:
            raise  # it is no answer
        return False
    return True


def _bind(kind: int, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind | socket.SOCK_CLOEXEC) as trial:
        # A closed connection in TIME_WAIT must not count as a listener.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((address, port))
