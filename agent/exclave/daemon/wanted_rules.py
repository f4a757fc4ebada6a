"""Computes the wanted rules from the settings, the proxy that is ready, and the assessment of the data path.

No rules before a proxy is ready, unless an earlier agent's rules point to one. While the proxy is away the rules
stay, so that traffic does not bypass the mesh, until the assessment opens a direction.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from exclave.api.settings import Settings
from exclave.cluster.endpoint import ServerAddress
from exclave.config import RedirectConfig
from exclave.confirm.confirm import Confirming
from exclave.data_path.observer import DataPathObserver
from exclave.errors import ConfigError
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import Instance
from exclave.member.client import MemberClient
from exclave.proxy.instance import Proxy
from exclave.redirect.exclusions import find_all_ssh_ports, find_exclusions
from exclave.redirect.rules.policy import HostExclusions, RedirectPolicy, Server, make_policy

log = logging.getLogger(__name__)

POLL_INTERVAL = 10.0  # seconds between two evaluations without a published change: a new SSH server publishes none
FIRST_POLL_INTERVAL = 2.0  # the same while no rules could be made
SCAN_INTERVAL = 60.0  # seconds between two scans for SSH servers; a scan costs some milliseconds of CPU time


class Steering:
    """Publishes the wanted rules in `policy`. Made by `open_steering`.

    `problem`: why they differ from the settings. `trial`: the instance for trial connections, set by a swap.
    """

    def __init__(
        self,
        config: RedirectConfig,
        membership: MemberClient,
        proxy: Proxy,
        data_path: DataPathObserver,
        confirming: Confirming,
        servers: Latest[tuple[ServerAddress, ...]],
        active: Instance | None,
    ) -> None:
        self.policy: Latest[RedirectPolicy | None] = Latest(None)
        self.problem: Latest[str | None] = Latest(None)
        self.trial: Latest[Instance | None] = Latest(None)
        self._config = config
        self._membership = membership
        self._proxy = proxy
        self._data_path = data_path
        self._confirming = confirming
        self._servers = servers
        self._active = active
        self._settings: Settings | None = None
        self._addresses: tuple[str, ...] = ()
        self._instance: Instance | None = None
        self._exclusions = HostExclusions()

    async def find_exclusions(self) -> None:
        """Find what must not be captured on this host. Raises ValueError naming unknown users and groups."""
        self._exclusions = await find_exclusions(self._config)

    async def scan_for_ever(self) -> None:
        """Find new SSH servers until cancelled. Their ports stay excluded: sessions come and go too often."""
        while True:
            await trio.sleep(SCAN_INTERVAL)
            found = await find_all_ssh_ports()
            current = self._exclusions.ssh_ports
            if not set(found) <= set(current):
                self._exclusions = replace(self._exclusions, ssh_ports=tuple(sorted({*current, *found})))
                log.info("redirect: [ssh_ports=%s]", ",".join(map(str, self._exclusions.ssh_ports)))

    async def run(self) -> None:
        """Update the wanted rules until cancelled."""
        proxy, membership = self._proxy, self._membership
        sources = (
            membership.settings,
            membership.captured,
            proxy.chosen,
            proxy.ready,
            proxy.instances,
            self._data_path.assessment,
            self._confirming.view,
            self._servers,
            self.trial,
        )
        async with open_any_change(*sources) as change:
            while True:
                self.settle()
                await change.wait(POLL_INTERVAL if self.policy.value is not None else FIRST_POLL_INTERVAL)

    def settle(self) -> None:
        """Compute the wanted rules. Nothing is awaited, so all values are of the same moment."""
        settings = self._settings_of_proxy()  # with the addresses that belong to them
        self._instance = self._proxy.ready.value or self._instance or self._adopted()
        if settings is None or self._instance is None or not self._addresses:
            return
        assessment = self._data_path.assess_now()
        addresses = sorted({(server.address, server.port) for server in self._servers.value})
        servers = tuple(Server(address, port) for address, port in addresses)
        try:
            policy = make_policy(
                settings,
                self._config,
                instance=self._instance,
                addresses=self._addresses,
                proxy_uid=self._proxy.uid,
                servers=servers,
                exclusions=self._exclusions,
                outbound_open=assessment.outbound_open,
                outside_open=assessment.outside_open,
                inbound_open=assessment.inbound_open,
                refuses=assessment.is_failing,  # a proxy that has been away for so long is not back in a second
            )
        except ValueError as problem:
            self._report_problem(f"the rules stay as they are: {problem}")
            return
        self._report_problem(None)
        self.policy.set(replace(policy, armed_until=self._confirming.arm(), trial=self.trial.value))

    def _settings_of_proxy(self) -> Settings | None:
        # A proxy refuses traffic to an address of newer settings, so the rules wait until the proxy has these settings.
        newest, current = self._membership.settings.value, self._settings
        if newest is None or current is None or not self._addresses or self._proxy.has_settings(newest):
            self._settings, self._addresses = newest or current, self._membership.captured.value
            return self._settings
        # New ports are captured at once: pods use them once they are listed, and the proxy then requests their policy.
        numbers = {port.port for port in current.group.ports}
        added = tuple(port for port in newest.group.ports if port.port not in numbers)
        return replace(current, group=replace(current.group, ports=current.group.ports + added))

    def _adopted(self) -> Instance | None:
        view = self._proxy.instances.value.get(self._active) if self._active is not None else None
        return self._active if view is not None and view.is_adopted else None

    def _report_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem.value:
            log.error("%s", problem)
        self.problem.set(problem)


@asynccontextmanager
async def open_steering(
    config: RedirectConfig,
    membership: MemberClient,
    proxy: Proxy,
    data_path: DataPathObserver,
    confirming: Confirming,
    servers: Latest[tuple[ServerAddress, ...]],
    active: Instance | None,
) -> AsyncIterator[Steering]:
    """Publish the wanted rules while open; at once if the proxy of the `active` instance was adopted.

    `servers`: addresses that are never captured; `active`: the instance that the kernel's rules point to.
    """
    steering = Steering(config, membership, proxy, data_path, confirming, servers, active)
    try:
        await steering.find_exclusions()
    except ValueError as problem:
        raise ConfigError(str(problem), "name users and groups of this machine, or their numbers") from None
    steering.settle()
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "steering", steering.run)
        nursery.start_soon(supervise, "host exclusions", steering.scan_for_ever)
        yield steering
        nursery.cancel_scope.cancel()
