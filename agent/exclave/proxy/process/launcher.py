"""Launches processes of the proxy, each with the newest settings and the binary that is on disk now.

A process is on record before it may become the proxy, so there is no proxy that the next agent cannot find.
"""

from pathlib import Path

from exclave.api.settings import Settings
from exclave.config import ProxyConfig
from exclave.errors import Fault, HostError
from exclave.kit.host.gated import HeldProcess
from exclave.link.layout import Instance
from exclave.member.client import MemberClient
from exclave.milestones import Starting, log_milestone
from exclave.proxy.environment import environment_digest, proxy_environment
from exclave.proxy.process.binary import ProxyUser, check_binary
from exclave.proxy.process.binary_id import identify_binary
from exclave.proxy.process.instances import InstanceRecord
from exclave.proxy.process.logfile import output_path
from exclave.proxy.process.records import RecordFile, find_executable
from exclave.proxy.process.slot import find_families
from exclave.proxy.process.spawn import Program, launch


class ProxyLauncher:
    """Launches processes of the proxy."""

    def __init__(
        self, config: ProxyConfig, user: ProxyUser, runtime: Path, membership: MemberClient, socket: Path
    ) -> None:
        self.records = RecordFile(runtime)
        self._config = config
        self._user = user
        self._runtime = runtime
        self._membership = membership
        self._socket = socket
        self._resolv_conf = runtime / "resolv.conf"

    def write_resolv_conf(self, dns_address: str) -> None:
        """Write the resolv.conf that instances have in place of the host's."""
        self._resolv_conf.write_text(f"nameserver {dns_address}\noptions ndots:0\n")
        self._resolv_conf.chmod(0o644)

    def remove_resolv_conf(self) -> None:
        """Remove the instances' resolv.conf."""
        self._resolv_conf.unlink(missing_ok=True)

    async def check(self) -> str | None:
        """Check that the binary can be run; its version, None if it prints none. Raises HostError."""
        return await check_binary(self._config.binary, self._user)

    async def launch(self, instance: Instance, settings: Settings) -> tuple[HeldProcess, InstanceRecord]:
        """Launch a process and put it on record. Raises HostError."""
        environment = self.environment(settings, instance)
        binary = self._config.binary
        program = Program(binary, self._user, environment, self._resolv_conf, output_path(self._runtime, instance))
        executable, identity = find_executable(binary), await identify_binary(binary)
        gated = launch(program)
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
        if not self._membership.captured.value:
            return None
        return environment_digest(self.environment(settings, instance))

    def environment(self, settings: Settings, instance: Instance) -> dict[str, str]:
        """The environment for an instance. Raises HostError while this machine has no address."""
        if not self._membership.captured.value:
            raise HostError(
                Fault.PROXY_UNUSABLE,
                "this machine has no address to have in the mesh",
                "give it a route to the API server, or set its address in config.toml: [member] address",
            )
        return proxy_environment(
            settings,
            self._membership.record.member,
            self._membership.captured.value,
            instance,
            self._socket,
            self._config.log,
            drain=self._config.drain,
            families=find_families(instance),
        )
