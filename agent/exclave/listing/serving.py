"""The door: pods are told that they may come, and told first when they may no longer.

Rules: what to tell is decided by `ready.decide` from facts that are read at each change, and at least every
`LOOK_EVERY` seconds; a write that the cluster does not take in `PATIENCE` seconds is given up and decided anew, so
that nothing outdated is ever told. A failure here touches no traffic. When the door closes, the first half of walking
back happens: `leaving.walk_back`.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from exclave.api.member import MemberView
from exclave.config import ListingConfig
from exclave.confirm.confirm import Confirming
from exclave.data_path.observer import DataPathObserver
from exclave.ending import EndingSwitch
from exclave.errors import ApiRefusal
from exclave.identity.rotator import Identity
from exclave.kit.tasks.any_change import open_any_change
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.shield import shielded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now
from exclave.listing.probes import run_probes
from exclave.listing.ready import Effect, Facts, ProbeResult, SetReady, Told, decide, judge
from exclave.listing.rules import Gaps, Sight, judge_rules
from exclave.listing.withdraw import PATIENCE as WITHDRAWAL
from exclave.listing.withdraw import walk_back
from exclave.member.client import MemberClient
from exclave.milestones import Starting, tell
from exclave.proxy.instance import Proxy
from exclave.redirect.reconciler import Redirect

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks at the facts when nothing says that they have changed."""

PATIENCE = 10.0
"""Seconds for one write."""

SOON = 0.25
"""The same while rules are not as wanted and that costs nothing yet."""

ADOPTION = 30.0
"""Seconds for a proxy that an earlier agent left to answer."""

SPARE = 5.0
"""Seconds that walking back may take beside what it waits for."""


@dataclass(frozen=True)
class ListingView:
    """How this machine stands with pods; `reason` and `message` are those of condition Ready."""

    serving: bool = False
    ports: tuple[int, ...] = ()
    ready: bool = False
    reason: str = ""
    message: str = ""
    probes: tuple[ProbeResult, ...] = ()
    is_failing: bool = False


class Listing:
    """What pods are told of this machine. Made by `open_listing`."""

    def __init__(
        self,
        membership: MemberClient,
        identity: Identity,
        proxy: Proxy,
        redirect: Redirect,
        data_path: DataPathObserver,
        confirming: Confirming,
        now: Now,
    ) -> None:
        self.state: Latest[ListingView] = Latest(ListingView())
        self._membership = membership
        self._identity = identity
        self._proxy = proxy
        self._redirect = redirect
        self._data_path = data_path
        self._confirming = confirming
        self._now = now
        self._probes: Latest[tuple[ProbeResult, ...]] = Latest(())
        self._told: Told | None = None
        self._was_whole = False
        self._opened = trio.current_time()
        self._gaps = Gaps()

    async def keep_probes(self) -> None:
        """Run the group's probes for ever, as the newest settings name them."""
        membership = self._membership
        while True:
            settings = await membership.settings.wait_for(lambda settings: settings is not None)
            assert settings is not None
            wanted, address = settings.group.probes, membership.local_address
            async with (
                open_any_change(membership.settings, membership.captured) as change,
                open_bare_nursery() as nursery,
            ):
                nursery.start_soon(run_probes, address, wanted, self._probes)
                async for _ in change.wakes():
                    newest = membership.settings.value
                    if newest is None or newest.group.probes != wanted or membership.local_address != address:
                        break
                nursery.cancel_scope.cancel()

    async def keep_told(self) -> None:
        """Tell the cluster what holds, for ever."""
        sources = (
            self._membership.view,
            self._membership.settings,
            self._membership.address_problem,
            self._identity.svid,
            self._proxy.ready,
            self._proxy.instances,
            self._proxy.admin_denial,
            self._redirect.observed,
            self._redirect.wanted,
            self._data_path.assessment,
            self._confirming.view,
            self._probes,
        )
        async with open_any_change(*sources) as change:
            while True:
                facts = self._look()
                self.state.set(self._shown(facts))
                for effect in decide(facts, self._told):
                    await self._carry_out(effect, facts)
                is_forgiven = facts.rules and not self._redirect.in_place
                await change.wait(SOON if is_forgiven else LOOK_EVERY)

    def _look(self) -> Facts:
        view, settings = self._membership.view.value, self._membership.settings.value
        svid, instance = self._identity.svid.value, self._proxy.ready.value
        rules, confirmation = self._have_rules(), self._confirming.view.value
        kept = self._membership.address_problem.value
        certificate = svid is not None and self._now() < svid.not_after
        self._was_whole = self._was_whole or (certificate and instance is not None and rules)
        return Facts(
            certificate=certificate,
            proxy=instance is not None,
            rules=rules,
            assessment=self._data_path.assess_now(),
            was_whole=self._was_whole,
            ports=frozenset(port.port for port in settings.group.ports) if settings else frozenset(),
            probes=self._probes.value,
            is_adopting=self._is_adopting(),
            serving=None if view is None else view.serving,
            data_path=view.data_path if view else "",
            listed=frozenset(view.workload_ports) if view else frozenset(),
            workload=view.workload_uid if view else None,
            is_live=_is_live(view),
            is_cordoned=view is not None and view.cordoned,
            unconfirmed=confirmation.text if confirmation.is_withdrawn else "",
            refusal=self._proxy.admin_denial.value or "",
            kept=kept.why if kept is not None else "",
        )

    def _have_rules(self) -> bool:
        """Whether the kernel's rules hand over what pods send, to a proxy that can serve; small gaps do not count."""
        redirect, now = self._redirect, trio.current_time()
        wanted, stands = redirect.wanted.value, redirect.observed.value
        pointed = self._proxy.instances.value.get(stands.instance) if stands.instance is not None else None
        sight = Sight(
            in_place=redirect.in_place,
            serving=pointed is not None and pointed.can_serve,
            gone=not stands.installed,
            wanted=wanted is not None and wanted.inbound,
            refused=redirect.problem.value is not None,
        )
        self._gaps = self._gaps.see(sight.in_place, now)
        return judge_rules(sight, self._gaps, now)

    def _is_adopting(self) -> bool:
        """Whether a proxy of an earlier agent may still prove whole: nothing is withdrawn until that is known."""
        if self._was_whole or trio.current_time() - self._opened > ADOPTION:
            return False
        return any(view.is_adopted for view in self._proxy.instances.value.values())

    def _shown(self, facts: Facts) -> ListingView:
        verdict = judge(facts)
        listed = tuple(sorted(facts.listed))
        return ListingView(
            bool(facts.serving),
            listed,
            verdict.ready,
            verdict.reason,
            verdict.message,
            facts.probes,
            facts.assessment.is_failing,
        )

    async def _carry_out(self, effect: Effect, facts: Facts) -> None:
        with trio.move_on_after(PATIENCE):
            try:
                if isinstance(effect, SetReady):
                    await self._set_ready(effect, facts)
                else:
                    fields = {"serving": effect.serving, "dataPath": effect.data_path, "dataPathReason": effect.why}
                    await self._membership.patch_spec(fields)
                    if effect.serving:
                        tell(Starting.SERVING)
                    log.info("listing: [serving=%s data-path=%s]", effect.serving, effect.data_path)
                    await self._membership.view.wait_for(
                        lambda view: view is None or view.serving == effect.serving  # our own write, come back
                    )
            except ApiRefusal as refusal:
                log.warning("the cluster was not told: %s", refusal)
                await trio.sleep(LOOK_EVERY)

    async def _set_ready(self, effect: SetReady, facts: Facts) -> None:
        verdict = effect.verdict
        await self._membership.set_ready(verdict.ready, verdict.reason, verdict.message)
        if verdict.ready:
            tell(Starting.READY)
        log.info("listing: [ready=%s reason=%s message=%s]", verdict.ready, verdict.reason, verdict.message)
        assert facts.workload is not None
        self._told = Told(verdict, facts.workload, facts.is_live)


def _is_live(view: MemberView | None) -> bool:
    return view is not None and view.live is not None and view.live.status


@asynccontextmanager
async def open_listing(
    config: ListingConfig,
    membership: MemberClient,
    identity: Identity,
    proxy: Proxy,
    redirect: Redirect,
    data_path: DataPathObserver,
    confirming: Confirming,
    endings: EndingSwitch,
    now: Now,
) -> AsyncIterator[Listing]:
    """Have this machine listed while open and while its data path stands; withdraw it on the way out."""
    listing = Listing(membership, identity, proxy, redirect, data_path, confirming, now)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "probes", listing.keep_probes)
        nursery.start_soon(supervise, "listing", listing.keep_told)
        try:
            yield listing
        finally:
            nursery.cancel_scope.cancel()
            with shielded(WITHDRAWAL + config.drain + SPARE):
                await walk_back(membership, endings.value, config.drain)
