"""Launches processes of the proxy, each with the newest settings and the binary that is on disk now.

The chain is `unshare` (own mounts), a shell that waits at the gate (kit/host/gated) and mounts the private resolv.conf,
`setpriv` (own user only), then the proxy. Each one replaces the one before, so the pid stays the same.
"""

import errno
import os
import shutil
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

from exclave.api.settings import Settings
from exclave.config import ProxyConfig
from exclave.errors import Fault, HostError
from exclave.kit.host.gated import GATE, GatedProcess, HeldProcess, start_gated
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
from exclave.proxy.environment import environment_digest, proxy_environment
from exclave.proxy.process.binary import (
    SEARCH_PATH,
    ProxyUser,
    check_binary,
    identify_binary,
    setpriv_command,
    unusable,
)
from exclave.proxy.process.logfile import output_path
from exclave.proxy.process.records import InstanceRecord, RecordFile, find_executable

RESOLV_CONF = Path("/etc/resolv.conf")

# Without -n, mount would leave its folder /run/mount on a host that has none. As slave, the namespace receives the
# host's mounts and the host none of its own. The private resolv.conf lasts until the host's file is replaced; by then
# the proxy has read it. util-linux is on every Debian and Fedora, and leaves no Python in the process.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "slave", "--")
_SHELL = f'{GATE}; exec </dev/null; cd /; mount -n --bind "$0" /etc/resolv.conf && exec "$@"'


class ProxyLauncher:
    """Launches processes."""

    def __init__(
        self, config: ProxyConfig, user: ProxyUser, runtime: Path, membership: MemberClient, socket: Path
    ) -> None:
        self.config = config
        self.user = user
        self.runtime = runtime
        self.membership = membership
        self.records = RecordFile(runtime)
        self._socket = socket
        self._resolv_conf = runtime / "resolv.conf"

    def write_resolv_conf(self, dns_address: str) -> None:
        """Write the resolv.conf that replaces the host's for instances."""
        self._resolv_conf.write_text(f"nameserver {dns_address}\noptions ndots:0\n")
        self._resolv_conf.chmod(0o644)

    def remove_resolv_conf(self) -> None:
        """Remove the instances' resolv.conf."""
        self._resolv_conf.unlink(missing_ok=True)

    async def check(self) -> str | None:
        """Check that the binary can be run; its version, None if it prints none. Raises HostError."""
        return await check_binary(self.config.binary, self.user)

    async def launch(self, instance: Instance, settings: Settings) -> tuple[HeldProcess, InstanceRecord]:
        """Launch a process and record it. Raises HostError."""
        environment = self.environment(settings, instance)
        binary = self.config.binary
        executable, identity = find_executable(binary), await identify_binary(binary)
        gated = start_child(binary, self.user, environment, self._resolv_conf, output_path(self.runtime, instance))
        log_milestone(Starting.PROXY_WAITS)

        def store(pid: int) -> InstanceRecord:
            record = self.records.add(instance, pid, executable, environment_digest(environment), identity)
            log_milestone(Starting.PROXY_RECORDED)
            return record

        record = await gated.release(store)
        log_milestone(Starting.PROXY_RELEASED)
        return gated.process, record

    def wanted_digest(self, settings: Settings, instance: Instance) -> str | None:
        """The digest of the environment that an instance should have; None while this machine has no address."""
        if not self.membership.captured.value:
            return None
        return environment_digest(self.environment(settings, instance))

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
            families=find_families(instance),
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


def choose_slot(used: Collection[Instance] = ()) -> Instance:
    """The first slot with free ports that is not in `used`, the slots of our own processes.

    Raises HostError if no slot is free, or the link does not have its addresses.
    """
    wanted = [instance for instance in INSTANCES if instance not in used]
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
    """The address families that the private link has for an instance; always with IPv4."""
    return tuple(family for family in FAMILIES if family == 4 or _is_there(instance_address(instance, family)))


def _is_free(address: str, port: int) -> bool:
    try:
        _bind(socket.SOCK_STREAM, address, port)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return False
        raise HostError(
            Fault.OCCUPIED,
            f"the proxy cannot listen on {address}:{port}: {(problem.strerror or '').lower()}",
            "the link exclave0 should have that address: exclave cleanup, then start again",
        ) from None
    return True


def _is_there(address: str) -> bool:
    try:
        _bind(socket.SOCK_DGRAM, address, 0)
    except OSError:
        return False
    return True


def _bind(kind: int, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind | socket.SOCK_CLOEXEC) as trial:
        # A closed connection in TIME_WAIT must not count as a listener.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((address, port))
