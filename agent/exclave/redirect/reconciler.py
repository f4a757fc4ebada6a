"""Applies the wanted ruleset, and repairs it when others change it.

Each change is one transaction. The table is then read back: its fingerprint is the reference for later readings.
"""

import hashlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.host.procfs import read_boot_id
from exclave.kit.tasks.backoff import FIGHT, pause_after
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import TABLE
from exclave.milestones import Starting, log_milestone
from exclave.redirect.kernel.half_open import forget_half_open
from exclave.redirect.kernel.monitor import Monitor, open_monitor
from exclave.redirect.kernel.nft import drain_table, load_rules, observe_table, remove_table
from exclave.redirect.kernel.observe import NOTHING, Observed
from exclave.redirect.rules.confirm_timer import render_arming
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render_drain, render_ruleset, ruleset_digest

log = logging.getLogger(__name__)

POLL_INTERVAL = 5.0  # seconds between two readings without reported changes, or while rules cannot be applied

CHECK_INTERVAL = 60.0  # seconds between two readings while the kernel reports changes; each one starts a program

DRAIN_TIME, REMOVAL_TIME = 70.0, 40.0  # seconds for two runs of nft and for one, each with at most 30 s and its end

FILE = "rules.json"


class AppliedRecord:
    """`rules.json`: fingerprint of the table as listed after it was made, digest of its transaction, and the boot.

    It lets the next agent adopt the table. After another boot, for other rules or if it is damaged it is ignored, and
    the table is made again, which affects no connection.
    """

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE

    def find_fingerprint(self, rules: str) -> str | None:
        """The recorded fingerprint of the table that this transaction makes; None without one."""
        try:
            tree = parse_json(self._path.read_text(encoding="utf-8"))
            fingerprint = str(tree["fingerprint"])
            wanted = _record(rules, fingerprint)
            return fingerprint if {key: tree[key] for key in wanted} == wanted else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store(self, rules: str, fingerprint: str) -> None:
        """Record how the table of this transaction is listed. A write error is only logged."""
        try:
            write_atomic(self._path, f"{json.dumps(_record(rules, fingerprint), indent=2)}\n".encode())
        except HostError as problem:
            log.warning("redirect: the next agent will make its rules again: %s", problem)

    def remove(self) -> None:
        """Remove the file, which may be absent. Raises HostError."""
        remove(self._path)


def _record(rules: str, fingerprint: str) -> dict[str, str]:
    digest = hashlib.sha256(rules.encode()).hexdigest()
    return {"rules": digest, "fingerprint": fingerprint, "boot_id": read_boot_id()}


class Action(Enum):
    """The action for the table."""

    NOTHING = "nothing"
    APPLY = "apply"  # the wanted rules changed
    REPAIR = "repair"  # another program changed our table


def plan_table(wanted: RedirectPolicy | None, observed: Observed, reference: str | None) -> Action:
    """The action for the table. `reference` is its fingerprint as we applied it, None if unknown.

    A table with that fingerprint is trusted. Any other one is replaced, which affects no connection.
    """
    if wanted is None:
        # The drain ruleset replaces an existing table; none is made for that.
        return Action.APPLY if observed.installed and not observed.is_draining else Action.NOTHING
    if reference is None:
        return Action.APPLY
    if observed.fingerprint != reference:
        return Action.REPAIR
    if wanted.armed_until == 0 and observed.armed_left:
        return Action.APPLY  # its time ends before the kernel's timer
    return Action.NOTHING if observed.digest == ruleset_digest(wanted) else Action.APPLY


def is_wider(before: RedirectPolicy | None, wanted: RedirectPolicy) -> bool:
    """True if connections may have begun outside the wanted rules. `before`: the former rules, None if unknown."""
    return before is None or replace(before, instance=wanted.instance, trial=wanted.trial) != wanted


@dataclass
class Redirect:
    """The rules in the kernel. `problem`: why they are not as wanted; `repairs`: number of foreign changes undone."""

    wanted: Latest[RedirectPolicy | None]
    _applied: AppliedRecord
    observed: Latest[Observed] = field(default_factory=lambda: Latest(NOTHING))
    problem: Latest[HostError | None] = field(default_factory=lambda: Latest[HostError | None](None))
    repairs: int = 0
    _monitor: Monitor = field(default_factory=lambda: Monitor(TABLE))
    _reconciling: trio.Lock = field(default_factory=trio.Lock)
    _repaired: "deque[float]" = field(default_factory=lambda: deque(maxlen=FIGHT))
    _in_kernel: RedirectPolicy | None = None
    _widenings: Latest[int] = field(default_factory=lambda: Latest(0))
    _reference: str | None = None
    _is_first: bool = True

    @property
    def in_place(self) -> bool:
        """True if the kernel's table is the wanted one, as of the last reading."""
        return self.wanted.value is not None and self.wanted.value == self._in_kernel

    async def reconcile(self) -> None:
        """Read the table, and change it if it is not as wanted. Raises HostError."""
        async with self._reconciling:
            await self._reconcile()

    async def _reconcile(self) -> None:
        wanted = self.wanted.value
        observed = NOTHING if self._monitor.pop_removed() else await observe_table()
        rules = render_ruleset(wanted) if wanted is not None else render_drain()
        reference = self._reference or self._find_reference(rules, observed)
        action = plan_table(wanted, observed, reference)
        before = None if action is Action.REPAIR else self._in_kernel
        if action is Action.NOTHING:
            self._monitor.pop_author()  # the last change was our own, or there was none
        else:
            self._in_kernel = None
            self.observed.set(observed)
            observed = await self._apply(action, rules + _render_arming(wanted))
        is_wanted = wanted is not None and observed.digest == ruleset_digest(wanted)
        self._in_kernel = wanted if is_wanted else None
        self._reference = observed.fingerprint if is_wanted else None
        if wanted is not None and is_wanted:
            if is_wider(before, wanted):
                self._widenings.set(self._widenings.value + 1)
            if action is not Action.NOTHING:
                self._applied.store(rules, observed.fingerprint)
                log_milestone(Starting.RULES)
        self.observed.set(observed)
        self.problem.set(None)

    def _find_reference(self, rules: str, observed: Observed) -> str | None:
        """The fingerprint that an earlier agent recorded for the same rules. Only the first reading may adopt it."""
        is_first, self._is_first = self._is_first, False
        if not is_first or not observed.installed:
            return None
        reference = self._applied.find_fingerprint(rules)
        if reference == observed.fingerprint:
            log.info("redirect: [action=adopt instance=%s digest=%s]", observed.instance or "none", observed.digest)
        return reference

    async def _apply(self, action: Action, rules: str) -> Observed:
        author = self._monitor.pop_author()
        if action is Action.REPAIR:
            self.repairs += 1
            self._repaired.append(trio.current_time())
            by = f" ({author})" if author else ""
            log.warning("redirect: another program changed or removed our table%s; it is restored", by)
        await load_rules(rules)
        observed = await observe_table()
        log.info(
            "redirect: [action=%s instance=%s digest=%s]", action.value, observed.instance or "none", observed.digest
        )
        return observed

    async def run(self) -> None:
        """Reconcile whenever the wanted rules or the table change, and at intervals; never raises HostError."""
        # Our own change causes one more reading, which finds nothing to do.
        async with open_any_change(self.wanted, self._monitor.changes, self._monitor.is_listening) as change:
            pause = 0.0
            while True:
                await self.refresh()
                before, pause = pause, pause_after(self._repaired, trio.current_time())
                if pause and not before:
                    log.warning("redirect: another program undoes each repair; from now on one repair in %g s", pause)
                await trio.sleep(pause)
                is_calm = self._monitor.is_listening.value and self.problem.value is None
                await change.wait(CHECK_INTERVAL if is_calm else POLL_INTERVAL)

    async def forget_half_open(self) -> None:
        """After each widening, delete half-open connections, so that their next SYN is captured (kernel/half_open)."""
        async for count in self._widenings.changes():
            if count and self.wanted.value is not None:
                await forget_half_open(self.wanted.value.addresses)

    async def refresh(self) -> None:
        """Reconcile now; never raises HostError."""
        try:
            await self.reconcile()
        except HostError as problem:
            if problem.message != getattr(self.problem.value, "message", None):
                log.error("redirect: %s (%s)", problem.message, problem.hint)
            self.problem.set(problem)


def _render_arming(wanted: RedirectPolicy | None) -> str:
    return render_arming((wanted.armed_until if wanted and wanted.armed_until else 0.0) - trio.current_time())


@asynccontextmanager
async def open_redirect(
    wanted: Latest[RedirectPolicy | None], runtime: Path, endings: EndingSwitch
) -> AsyncIterator[Redirect]:
    """Apply `wanted` (None: capture nothing new) to the kernel's table while open; on hand-over the rules stay.

    Raises HostError if the first reading or change fails: nft missing or without NAT, no privilege. A later failure
    leaves the rules as they were and is retried.
    """
    async with open_monitor(TABLE) as monitor:  # first, so that no change after the first reading is missed
        applied = AppliedRecord(runtime)
        redirect = Redirect(wanted, applied, _monitor=monitor)
        await redirect.reconcile()
        async with open_bare_nursery() as nursery:
            nursery.start_soon(redirect.run)
            nursery.start_soon(supervise, "redirect, half-open connections", redirect.forget_half_open)
            try:
                yield redirect
            finally:
                nursery.cancel_scope.cancel()
                if endings.value is not Ending.HAND_OVER:
                    with shielded(DRAIN_TIME):
                        await drain_table()  # open connections are served to their end
                        applied.remove()


@asynccontextmanager
async def open_table(endings: EndingSwitch) -> AsyncIterator[None]:
    """Remove the table at a leave or a stop, after the proxy has served its open connections. Raises HostError."""
    try:
        yield
    finally:
        if endings.value is not Ending.HAND_OVER:
            with shielded(REMOVAL_TIME):
                await remove_table()
