"""Another address of this machine: found, served by a swap, then claimed, and the one before it left behind.

Rules: what to do is decided by `whereabouts.decide`; this carries it out. What is claimed stands on disk before the
Member says it, with the one before it, so that an agent that was killed goes on where it stood. The former one is
served until the ExternalWorkload is seen to have the new one, and pods have had as long to hear as they have when a
machine goes. Nothing here touches traffic: proxy, rules and swap follow `captured`.
"""

import logging
from typing import NoReturn

import trio

from exclave.errors import ClusterError
from exclave.kit.tasks.any_change import open_any_change
from exclave.kit.tasks.backoff import Backoff
from exclave.member.address_choice import Decision, Facts, decide, tell_slow
from exclave.member.addresses import find_here
from exclave.member.client import Membership
from exclave.milestones import Moving, tell
from exclave.proxy.instance import Proxy
from exclave.redirect.reconciler import Redirect

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0
"""Seconds between two looks when nothing tells of a change: which addresses stand here."""

SOON = 1.0
"""The same while this machine moves."""

PATIENCE = 10.0
"""Seconds for the Member to say what it is to say, as we follow it."""

ASKS = Backoff(first=1.0, most=60.0, jitter=0.0)
"""Pauses between two looks at the ExternalWorkload. A controller that is away keeps the former address for hours."""


class Mover:
    """Follows this machine's address. `drain` is for how long pods may go on with what they were told, in seconds."""

    def __init__(self, membership: Membership, proxy: Proxy, redirect: Redirect, drain: float) -> None:
        self._membership = membership
        self._proxy = proxy
        self._redirect = redirect
        self._drain = drain
        self._refused = ""
        self._found_at: float | None = None
        self._asks, self._ask_at = 0, 0.0
        self._left_at: float | None = None

    async def keep(self) -> NoReturn:
        """Serve and claim this machine's address, for ever. Raises ApiRefusal, for whoever supervises."""
        membership, proxy, redirect = self._membership, self._proxy, self._redirect
        of_member = (membership.found, membership.view, membership.settings)
        of_path = (proxy.chosen, proxy.instances, redirect.wanted, redirect.observed)
        async with open_any_change(*of_member, *of_path) as change:
            while True:
                pause = await self._move()
                await change.wait(pause)

    async def _move(self) -> float:
        """Take the next step; how long to wait for a change before the one after it, in seconds."""
        facts = self._look()
        decision = decide(facts)
        self._publish(facts, decision)
        if decision.give_up:
            self._give_up(facts)
        elif decision.claim:
            self._claim(facts, decision)
        if not await self._say():
            return SOON
        if self._membership.record.former:
            await self._leave_behind()
        is_done = not decision.moving_to and self._membership.record.address == facts.claimed
        return LOOK_EVERY if is_done and self._membership.record.former == facts.former == "" else SOON

    def _look(self) -> Facts:
        membership = self._membership
        record, view, settings = membership.record, membership.view.value, membership.settings.value
        asked = {record.address, record.former, membership.found.value} - {""}
        registered = view.registered if view is not None else None
        return Facts(
            claimed=record.address,
            found=membership.found.value,
            former=record.former,
            refused=self._refused,
            here=find_here(asked) if len(asked) > 1 else frozenset(),
            served=self._served(),
            networks=settings.group.networks if settings is not None else (),
            listed=None if view is None else view.serving or bool(view.workload_ports),
            is_said=view is not None and view.addresses == (record.address,),
            is_registered=registered is None or registered.status,
        )

    def _served(self) -> frozenset[str]:
        """What the kernel's rules hand to a proxy that was told of it."""
        settings, wanted = self._membership.settings.value, self._redirect.wanted.value
        if settings is None or wanted is None or not self._redirect.in_place or not self._proxy.has_settings(settings):
            return frozenset()
        return frozenset(wanted.addresses) if wanted.instance == self._proxy.ready.value else frozenset()

    def _publish(self, facts: Facts, decision: Decision) -> None:
        membership = self._membership
        membership.carry(decision.carried)
        if decision.moving_to:
            self._found_at = trio.current_time() if self._found_at is None else self._found_at
            kept = tell_slow(facts, trio.current_time() - self._found_at)
        else:
            self._found_at, kept = None, decision.kept
        if kept is not None and kept != membership.kept.value:
            log.warning("address: %s", kept.why)
        membership.kept.set(kept)
        membership.walks.set(decision.walk)

    def _claim(self, facts: Facts, decision: Decision) -> None:
        may_be_told = facts.claimed if facts.listed is not False and facts.is_registered else ""
        log.info("address: [claimed=%s was=%s]", decision.claim, facts.claimed or "none")
        self._membership.claim(decision.claim, may_be_told)
        self._left_at, self._asks, self._ask_at = None, 0, 0.0
        tell(Moving.NOTED)

    def _give_up(self, facts: Facts) -> None:
        log.error("address: [refused=%s back=%s]", facts.claimed, facts.former)
        self._refused = facts.claimed
        self._membership.claim(facts.former, "")

    async def _say(self) -> bool:
        """Have the Member say what is claimed; whether it does."""
        membership, wanted = self._membership, (self._membership.record.address,)
        view = membership.view.value
        if view is None or wanted == ("",) or view.addresses == wanted:
            return True
        membership.patch_beside({"addresses": list(wanted)})  # whoever says anything says this, too
        with trio.move_on_after(PATIENCE):
            await membership.patch_spec({})
            await membership.view.wait_for(lambda view: view is None or view.addresses == wanted)
            tell(Moving.SAID)
        return False

    async def _leave_behind(self) -> None:
        """Forget the former address once nobody is told of it, and pods have had time to hear."""
        membership, now = self._membership, trio.current_time()
        former = membership.record.former
        if self._left_at is not None and now - self._left_at >= self._drain:
            log.info("address: [left=%s]", former)
            membership.claim(membership.record.address, "")
            self._left_at = None
            tell(Moving.LEFT)
        elif self._left_at is None and now >= self._ask_at:
            self._ask_at = now + ASKS.pause(self._asks, 0.0)
            self._asks += 1
            try:
                listed = await membership.read_listed_addresses()
            except ClusterError as problem:
                log.info("address: whether %s is still listed is not known: %s", former, problem)
            else:
                self._left_at = now if former not in listed else None
