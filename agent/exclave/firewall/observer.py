"""Publishes whether the host's own firewall keeps pods from this machine. It changes nothing.

Rules are read when others change them, and no oftener than their reading takes little of a core. Why no probe: what
this machine sends to itself, or from a namespace of its own, comes by another interface than a pod's packets, and a
firewall may decide by that.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from exclave.api.settings import Settings
from exclave.errors import HostError
from exclave.firewall.assessment import Blocked, Entrance, assess
from exclave.firewall.read import read_rule_text, read_tables
from exclave.firewall.ruleset import Table
from exclave.kit.host.procfs import addresses_by_interface
from exclave.kit.host.routes import Route, read_route
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import INBOUND_PORT, LINK
from exclave.redirect.kernel.monitor import Monitor, open_monitor

log = logging.getLogger(__name__)

CHECK_INTERVAL = 600.0  # seconds between two readings while the kernel reports changes
POLL_INTERVAL = 60.0  # the same while it reports none
PAUSE = 1.0  # seconds after a reading at least: a program that loads rules does so in several transactions
BURST, WITHIN = 10, 60.0  # so many readings in so many seconds: other programs change rules all the time
SHARE = 200  # then a pause is so many times as long as the reading before it: large rulesets take seconds


class FirewallObserver:
    """Publishes `blocked`; None: nothing keeps pods from this machine, as far as we know. Made by `open_firewall`."""

    def __init__(self, settings: Latest[Settings | None], addresses: Latest[tuple[str, ...]], monitor: Monitor) -> None:
        self.blocked: Latest[Blocked | None] = Latest(None)
        self._settings = settings
        self._addresses = addresses
        self._monitor = monitor
        self._readings: deque[float] = deque(maxlen=BURST)

    async def run(self) -> None:
        """Assess at each change, until cancelled."""
        monitor = self._monitor
        async with open_any_change(monitor.changes, monitor.is_listening, self._settings, self._addresses) as change:
            while True:
                began = trio.current_time()
                try:
                    await self._assess()
                except HostError as problem:
                    log.warning("firewall: the rules of others cannot be read: %s", problem.message)
                await trio.sleep(self._pause(began, trio.current_time()))
                await change.wait(CHECK_INTERVAL if monitor.is_listening.value else POLL_INTERVAL)

    def _pause(self, began: float, ended: float) -> float:
        is_storm = len(self._readings) == BURST and ended - self._readings[0] < WITHIN
        self._readings.append(began)
        return max(PAUSE, SHARE * (ended - began)) if is_storm else PAUSE

    async def _assess(self) -> None:
        settings = self._settings.value
        if settings is None or not self._addresses.value:
            return
        entrance = await find_entrance(settings, self._addresses.value)
        blocked = await find_blocked(await read_tables(), entrance)  # not kept: large rulesets take megabytes
        if blocked is not None and blocked != self.blocked.value:
            log.warning("firewall: %s", blocked.text)
        elif blocked is None and self.blocked.value is not None:
            log.info("firewall: pods get in again")
        self.blocked.set(blocked)


async def find_entrance(settings: Settings, addresses: tuple[str, ...]) -> Entrance:
    """Where pods of this mesh arrive: by the interface of an address, or that of the route to them. Raises HostError.

    Port 4143 counts only if pods call it: for opaque ports of the group.
    """
    ports, plane = settings.group.ports, settings.control_plane
    opaque = (INBOUND_PORT,) if any(port.opaque for port in ports) else ()
    callers = tuple(dict.fromkeys((*plane.destination, *plane.policy, *plane.dns)))
    found = {address: [name] for name, own in _own_addresses() for address in own}
    interfaces = {address: found.get(address, []) for address in addresses}
    for address in addresses:
        caller = next((caller for caller in callers if (":" in caller) == (":" in address)), None)
        if caller is not None and isinstance(route := await read_route(caller), Route):
            interfaces[address].append(route.interface)
    unique = {address: tuple(dict.fromkeys(names)) or ("",) for address, names in interfaces.items()}
    return Entrance(unique, (*(port.port for port in ports), *opaque), callers)


def _own_addresses() -> list[tuple[str, list[str]]]:
    """Interfaces and their addresses, without loopback, where a VIP may be, and the private link."""
    return [(name, own) for name, own in addresses_by_interface().items() if name not in ("lo", LINK)]


async def find_blocked(tables: tuple[Table, ...], entrance: Entrance) -> Blocked | None:
    """What keeps pods from this machine, with the text of the deciding rule. Raises HostError."""
    blocked = await trio.to_thread.run_sync(assess, tables, entrance)
    if blocked is None or blocked.decision.rule is None or blocked.decision.rule.saved:
        return blocked
    text = await read_rule_text(blocked.decision.table, blocked.decision.rule)
    return replace(blocked, message=f"{blocked.message} ({text})") if text else blocked


async def find_blocked_before_join() -> Blocked | None:
    """The same for a machine that is no member: for the port that everything is redirected to, at any of its addresses.

    Raises HostError.
    """
    tables = await read_tables()
    addresses = [(address, name) for name, own in _own_addresses() for address in own]
    blocked = [
        await find_blocked(tables, Entrance({address: (name,)}, (INBOUND_PORT,)))
        for address, name in addresses
        if not address.lower().startswith("fe80:")
    ]
    return blocked[0] if blocked and all(blocked) else None


@asynccontextmanager
async def open_firewall(
    settings: Latest[Settings | None], addresses: Latest[tuple[str, ...]]
) -> AsyncIterator[FirewallObserver]:
    """Observe the host's firewall while open. `addresses`: where connections of the mesh arrive."""
    async with open_monitor(None) as monitor:  # first, so that no change after the first reading is missed
        observer = FirewallObserver(settings, addresses, monitor)
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "firewall", observer.run)
            yield observer
            nursery.cancel_scope.cancel()
