"""The door to nftables: have the wanted ruleset in the kernel, and know that it is there.

Rules: one `nft` process and one transaction per change; after each, the table is read back, and its fingerprint is
what every later look is compared with. Whatever changes our table is heard of and looked at, at once, so what others
remove or change is repaired in milliseconds; a look once a minute, or every few seconds where nothing can be heard,
finds what was missed. A change of ours costs one look more, which finds nothing to do. Whoever undoes our repairs at
once is answered once a second. A failure to apply leaves the rules that are there, is logged, and is tried again; the
first one, at the start, is raised.
What began while no rules stood, or narrower ones, and nobody answers, begins again, beside all this: see `unanswered`.
Rules are never just taken away, also not on leave and stop: the holding ruleset takes their place, so that what is
being served is served to its end; the link's door removes it once the proxy has ended. On hand over the rules stay.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave.kit.tasks.any_change import open_any_change
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.shield import shielded
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import TABLE
from exclave.milestones import Starting, tell
from exclave.redirect.applied import Made
from exclave.redirect.kernel.half_open import forget_unanswered
from exclave.redirect.kernel.monitor import Monitor, open_monitor
from exclave.redirect.kernel.nft import hold_table, load_rules, look
from exclave.redirect.kernel.observe import NOTHING, Observed
from exclave.redirect.plan import FIGHT, Action, decide, is_wider, pause_after
from exclave.redirect.rules.confirm_timer import render_arming
from exclave.redirect.rules.drain_ruleset import render_holding, render_kept
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import ruleset_digest

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between looks at the kernel's table where changes are not heard of, or rules could not be applied."""

LOOK_SELDOM = 60.0
"""Seconds between looks where changes are heard of: an agent that has nothing to do starts no programs."""

HOLD_TIME = 70.0
"""Seconds for two runs of nft, which have 30 s each, and for their ends."""


@dataclass
class Redirect:
    """What stands in the kernel. `problem`: why it is not what is wanted; `repairs`: foreign changes undone."""

    wanted: Latest[RedirectPolicy | None]
    _made: Made
    observed: Latest[Observed] = field(default_factory=lambda: Latest(NOTHING))
    problem: Latest[HostError | None] = field(default_factory=lambda: Latest[HostError | None](None))
    repairs: int = 0
    _monitor: Monitor = field(default_factory=lambda: Monitor(TABLE))
    _settling: trio.Lock = field(default_factory=trio.Lock)
    _repaired: "deque[float]" = field(default_factory=lambda: deque(maxlen=FIGHT))
    _standing: RedirectPolicy | None = None
    _widened: Latest[int] = field(default_factory=lambda: Latest(0))
    _reference: str | None = None
    _is_first: bool = True

    @property
    def in_place(self) -> bool:
        """Whether the kernel's table is the wanted one, as of the last look."""
        return self.wanted.value is not None and self.wanted.value == self._standing

    async def settle(self) -> None:
        """Look, and do what is needed so that the kernel has what is wanted. Raises HostError."""
        async with self._settling:
            await self._settle()

    async def _settle(self) -> None:
        wanted = self.wanted.value
        observed = NOTHING if self._monitor.take_gone() else await look()
        rules = render_kept(wanted) if wanted is not None else render_holding()
        reference = self._reference or self._left_behind(rules, observed)
        action = decide(wanted, observed, reference)
        before = None if action is Action.REPAIR else self._standing
        if action is Action.NOTHING:
            self._monitor.take_author()  # it was we ourselves, or nobody
        else:
            self._standing = None
            self.observed.set(observed)
            observed = await self._apply(action, rules + _arming(wanted))
        stands = wanted is not None and observed.digest == ruleset_digest(wanted)
        self._standing = wanted if stands else None
        self._reference = observed.fingerprint if stands else None
        if wanted is not None and stands:
            if is_wider(before, wanted):
                self._widened.set(self._widened.value + 1)
            if action is not Action.NOTHING:
                self._made.note(rules, observed)
                tell(Starting.RULES)
        self.observed.set(observed)
        self.problem.set(None)

    def _left_behind(self, rules: str, observed: Observed) -> str | None:
        """What an earlier agent's table was, if it made it with these very rules; asked once."""
        is_first, self._is_first = self._is_first, False
        if not is_first or not observed.installed:
            return None
        reference = self._made.fingerprint_of(rules)
        if reference == observed.fingerprint:
            log.info("redirect: [action=adopt instance=%s digest=%s]", observed.instance or "none", observed.digest)
        return reference

    async def _apply(self, action: Action, rules: str) -> Observed:
        author = self._monitor.take_author()
        if action is Action.REPAIR:
            self.repairs += 1
            self._repaired.append(trio.current_time())
            by = f" ({author})" if author else ""
            log.warning("redirect: others changed or removed our table%s; it is made again", by)
        await load_rules(rules)
        observed = await look()
        log.info(
            "redirect: [action=%s instance=%s digest=%s]", action.value, observed.instance or "none", observed.digest
        )
        return observed

    async def keep(self) -> None:
        """Settle at every change of what is wanted or of what is there, and now and then; never raises HostError."""
        async with open_any_change(self.wanted, self._monitor.changes, self._monitor.is_listening) as change:
            pause = 0.0
            while True:
                await self._try_to_settle()
                before, pause = pause, pause_after(self._repaired, trio.current_time())
                if pause and not before:
                    log.warning("redirect: others undo what is repaired at once; it is repaired once in %g s", pause)
                await trio.sleep(pause)
                is_calm = self._monitor.is_listening.value and self.problem.value is None
                await change.wait(LOOK_SELDOM if is_calm else LOOK_EVERY)

    async def begin_anew(self) -> None:
        """Each time that connections may have begun beside the rules: forget those that nobody answers."""
        async for count in self._widened.changes():
            if count and self.wanted.value is not None:
                await forget_unanswered(self.wanted.value.addresses)

    async def refresh(self) -> None:
        """Have `observed` be what the kernel says now, for whoever asks; never raises HostError."""
        await self._try_to_settle()

    async def _try_to_settle(self) -> None:
        try:
            await self.settle()
        except HostError as problem:
            if problem.message != getattr(self.problem.value, "message", None):
                log.error("redirect: %s (%s)", problem.message, problem.hint)
            self.problem.set(problem)


def _arming(wanted: RedirectPolicy | None) -> str:
    """What arms rules that are to be confirmed, for what is left of their time."""
    return render_arming((wanted.armed_until if wanted and wanted.armed_until else 0.0) - trio.current_time())


@asynccontextmanager
async def open_redirect(
    wanted: Latest[RedirectPolicy | None], runtime: Path, endings: EndingSwitch
) -> AsyncIterator[Redirect]:
    """Keep the kernel's table as `wanted` says (None: nothing new is captured) while open.

    Raises HostError if the first look or change fails: nft missing or without NAT, no privilege.
    """
    async with open_monitor(TABLE) as monitor:  # first, so that no change after the first look is missed
        made = Made(runtime)
        redirect = Redirect(wanted, made, _monitor=monitor)
        await redirect.settle()
        async with open_bare_nursery() as nursery:
            nursery.start_soon(redirect.keep)
            nursery.start_soon(supervise, "redirect, what began beside the rules", redirect.begin_anew)
            try:
                yield redirect
            finally:
                nursery.cancel_scope.cancel()
                if endings.value is not Ending.HAND_OVER:
                    with shielded(HOLD_TIME):
                        await hold_table()
                        made.forget()
