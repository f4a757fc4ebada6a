"""Publishes whether the host's own firewall keeps pods from this machine. It changes nothing.

Rules are read when others change them, and no oftener than their reading takes little of a core. Why no probe: what
this machine sends to itself, or from a namespace of its own, comes by another interface than a pod's packets, and a
firewall may decide by that.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf

import trio

from exclave.api.settings import Settings
from exclave.errors import HostError
from exclave.firewall.assessment import Blocked, Entrance, assess
from exclave.firewall.read import read_rule_text, read_tables
from exclave.firewall.ruleset import Table
from exclave.kit.host.procfs import addresses_by_interface
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import INBOUND_PORT, LINK
from exclave.redirect.kernel.monitor import Monitor, open_monitor

log = logging.getLogger(__name__)

CHECK_INTERVAL = 600.0  # seconds between two readings while the kernel reports changes
POLL_INTERVAL = 60.0  # the same while it reports none
PAUSE = 1.0  # seconds after a reading at least: a program that loads rules does so in several transactions
SHARE = 50  # a pause is at least so many times as long as the reading before it: large rulesets take seconds


class FirewallObserver:
    """Publishes `blocked`; None: nothing certain keeps pods from this machine. Made by `open_firewall`."""

    def __init__(self, settings: Latest[Settings | None], addresses: Latest[tuple[str, ...]], monitor: Monitor) -> None:
        self.blocked: Latest[Blocked | None] = Latest(None)
        self._settings = settings
        self._addresses = addresses
        self._monitor = monitor
        self._tables: tuple[Table, ...] = ()
        self._read_at = -inf
        self._read_change = 0

    async def run(self) -> None:
        """Assess at each change, until cancelled."""
        monitor = self._monitor
        async with open_any_change(monitor.changes, monitor.is_listening, self._settings, self._addresses) as change:
            while True:
                took = await self._read()
                await self._assess()
                await trio.sleep(max(PAUSE, SHARE * took))
                await change.wait(self._interval())

    def _interval(self) -> float:
        return CHECK_INTERVAL if self._monitor.is_listening.value else POLL_INTERVAL

    async def _read(self) -> float:
        """Read the tables if they have changed, or may have. Returns the seconds that it took."""
        began, number = trio.current_time(), self._monitor.changes.value
        if number == self._read_change and began - self._read_at < self._interval():
            return 0.0
        try:
            self._tables = await read_tables()
            self._read_at, self._read_change = began, number
        except HostError as problem:
            log.warning("firewall: the rules of others cannot be read: %s", problem.message)
        return trio.current_time() - began

    async def _assess(self) -> None:
        settings = self._settings.value
        if settings is None or not self._addresses.value:
            return
        try:
            blocked = await find_blocked(self._tables, entrance_of(settings, self._addresses.value))
        except HostError as problem:  # the text of a rule cannot be read
            log.warning("firewall: %s", problem.message)
            return
        if blocked != self.blocked.value:
            if blocked is not None:
                log.warning("firewall: %s; to do: %s", blocked.message, blocked.hint)
            else:
                log.info("firewall: pods get in again")
        self.blocked.set(blocked)


def entrance_of(settings: Settings, addresses: tuple[str, ...]) -> Entrance:
    """Where pods of this mesh arrive. Port 4143 counts only if pods call it: for opaque ports of the group."""
    ports = settings.group.ports
    opaque = (INBOUND_PORT,) if any(port.opaque for port in ports) else ()
    plane = settings.control_plane
    callers = tuple(dict.fromkeys((*plane.destination, *plane.policy, *plane.dns)))
    return Entrance(_interfaces_of(addresses), (*(port.port for port in ports), *opaque), callers)


def _interfaces_of(addresses: tuple[str, ...]) -> dict[str, str]:
    """Each address with its interface, "" if that is unknown, or loopback, where a VIP may be."""
    found = {
        address: name for name, own in addresses_by_interface().items() if name not in ("lo", LINK) for address in own
    }
    return {address: found.get(address, "") for address in addresses}


async def find_blocked(tables: tuple[Table, ...], entrance: Entrance) -> Blocked | None:
    """What keeps pods from this machine, with the text of the deciding rule. Raises HostError."""
    blocked = assess(tables, entrance)
    if blocked is None or blocked.decision.rule is None or blocked.decision.rule.saved:
        return blocked
    text = await read_rule_text(blocked.decision.table, blocked.decision.rule)
    return replace(blocked, message=f"{blocked.message} ({text})") if text else blocked


async def find_blocked_before_join() -> Blocked | None:
    """The same for a machine that is no member: for the port that everything is redirected to, at any of its addresses.

    Raises HostError.
    """
    tables, found = await read_tables(), addresses_by_interface().items()
    addresses = [(address, name) for name, own in found if name not in ("lo", LINK) for address in own]
    blocked = [
        await find_blocked(tables, Entrance({address: name}, (INBOUND_PORT,)))
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
