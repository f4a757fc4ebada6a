"""Lists this machine: pods may send traffic here while it is open and the data path works.

At the end, `walk_back` withdraws the machine before rules and proxies are removed. Nothing here touches traffic.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from exclave.api.member import MemberView
from exclave.config import ListingConfig
from exclave.confirm.confirm import Confirming
from exclave.data_path.observer import DataPathObserver
from exclave.ending import Ending, EndingSwitch
from exclave.errors import ApiRefusal
from exclave.firewall.observer import FirewallObserver
from exclave.identity.rotator import Identity
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now
from exclave.listing import ready
from exclave.listing.probes import run_probes
from exclave.listing.ready import ProbeResult
from exclave.member.client import MemberClient
from exclave.member.state import Standing
from exclave.member.write_limit import WriteLimit
from exclave.milestones import Starting, Withdrawing, log_milestone
from exclave.proxy.instance import Proxy
from exclave.redirect.reconciler import Redirect

log = logging.getLogger(__name__)

POLL_INTERVAL = 5.0  # seconds between two evaluations of the facts when no change is published
WRITE_TIMEOUT = 10.0  # seconds for one write; then the decision is made again, so that no outdated value is written
GAP_POLL_INTERVAL = 0.25  # seconds between two evaluations during a tolerated gap in the rules
ADOPTION = 30.0  # seconds for an adopted proxy to answer
SPARE = 5.0  # seconds that a withdrawal may last besides its waits
WITHDRAW_TIMEOUT = 30.0  # seconds for the cluster to withdraw the ports; then the ending continues without it
FIRST_VIEW = 5.0  # seconds of `WITHDRAW_TIMEOUT` for the first read of the own Member


@dataclass(frozen=True)
class ListingView:
    """The state of this machine that the cluster shows. `reason` and `message` are those of condition Ready."""

    serving: bool = False
    ports: tuple[int, ...] = ()
    ready: bool = False
    reason: str = ""
    message: str = ""
    probes: tuple[ProbeResult, ...] = ()
    is_failing: bool = False


def view_of(facts: ready.ReadinessFacts) -> ListingView:
    """The view for these facts."""
    now, ports = ready.readiness(facts), tuple(sorted(facts.listed))
    if now.ready and facts.silence:
        now = ready.Readiness(False, ready.NOT_LIVE, facts.silence)
    failing = facts.assessment.is_failing
    return ListingView(bool(facts.serving), ports, now.ready, now.reason, now.message, facts.probes, failing)


def _silence(view: MemberView | None) -> str:
    if view is None or view.live is None or view.live.status:
        return ""
    return f"the cluster sends no traffic here: {view.live.message}"


class Listing:
    """Reports to the cluster whether pods may send traffic here. Made by `open_listing`."""

    def __init__(
        self,
        membership: MemberClient,
        identity: Identity,
        proxy: Proxy,
        redirect: Redirect,
        firewall: FirewallObserver,
        data_path: DataPathObserver,
        confirming: Confirming,
        now: Now,
    ) -> None:
        self.state: Latest[ListingView] = Latest(ListingView())
        self._membership = membership
        self._identity = identity
        self._proxy = proxy
        self._redirect = redirect
        self._firewall = firewall
        self._data_path = data_path
        self._confirming = confirming
        self._now = now
        self._probes: Latest[tuple[ProbeResult, ...]] = Latest(())
        self._reported: ready.Reported | None = None
        self._was_whole = False
        self._opened = trio.current_time()
        self._gaps = ready.RuleGaps()
        self._writes = WriteLimit()  # of `serving` and `dataPath`

    async def run_probes_for_settings(self) -> None:
        """Run the probes of the newest settings until cancelled."""
        membership, is_first = self._membership, True
        while True:
            settings = await membership.settings.wait_for(lambda settings: settings is not None)
            assert settings is not None
            wanted, address = settings.group.probes, membership.local_address
            async with (
                open_any_change(membership.settings, membership.captured) as change,
                open_bare_nursery() as nursery,
            ):
                nursery.start_soon(run_probes, address, wanted, self._probes, is_first)
                async for _ in change.wakes():
                    newest = membership.settings.value
                    if newest is None or newest.group.probes != wanted or membership.local_address != address:
                        break
                nursery.cancel_scope.cancel()
            is_first = False

    async def report_for_ever(self) -> None:
        """Write each change of Ready, `serving` and `dataPath` to the cluster until cancelled."""
        sources = (
            self._membership.view,
            self._membership.settings,
            self._membership.address_problem,
            self._membership.looping,
            self._membership.silence,
            self._identity.svid,
            self._proxy.ready,
            self._proxy.instances,
            self._proxy.admin_denial,
            self._redirect.observed,
            self._redirect.wanted,
            self._firewall.blocked,
            self._data_path.assessment,
            self._confirming.view,
            self._probes,
        )
        async with open_any_change(*sources) as change:
            while True:
                facts = self._facts()
                self.state.set(view_of(self._with_last_answer(facts)))
                for effect in ready.plan_writes(facts, self._reported):
                    await self._write(effect, facts)
                is_forgiven = facts.rules and not self._redirect.in_place
                await change.wait(GAP_POLL_INTERVAL if is_forgiven else POLL_INTERVAL)

    def _facts(self) -> ready.ReadinessFacts:
        view, settings = self._membership.view.value, self._membership.settings.value
        svid, instance = self._identity.svid.value, self._proxy.ready.value
        rules, confirmation = self._has_rules(), self._confirming.view.value
        address_note, blocked = self._membership.address_problem.value, self._firewall.blocked.value
        certificate = svid is not None and self._now() < svid.not_after
        self._was_whole = self._was_whole or (certificate and instance is not None and rules)
        return ready.ReadinessFacts(
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
            is_live=view is not None and view.live is not None and view.live.status,
            live_since=view.live_since if view is not None else "",
            registered=view.registered if view is not None else None,
            silence=self._membership.silence.value or _silence(view),
            is_cordoned=view is not None and view.cordoned,
            unconfirmed=confirmation.text if confirmation.is_withdrawn else "",
            refusal=self._proxy.admin_denial.value or "",
            address_note=address_note.why if address_note is not None else "",
            watch_note=f"the watch of {loop}" if (loop := self._membership.looping.value) else "",
            blocked=blocked.text if blocked is not None and blocked.is_certain else "",
            blocked_note=blocked.text if blocked is not None and not blocked.is_certain else "",
        )

    def _with_last_answer(self, facts: ready.ReadinessFacts) -> ready.ReadinessFacts:
        """For the status: until the cluster answers this agent, what it has answered an earlier one counts."""
        last = self._membership.last_answer
        if facts.serving is not None or last is None:
            return facts
        return replace(facts, serving=last.serving, listed=frozenset(last.ports), is_cordoned=last.cordoned)

    def _has_rules(self) -> bool:
        """True if the kernel redirects inbound traffic to a proxy that can serve. Short gaps do not count."""
        redirect, now = self._redirect, trio.current_time()
        wanted, stands = redirect.wanted.value, redirect.observed.value
        pointed = self._proxy.instances.value.get(stands.instance) if stands.instance is not None else None
        facts = ready.RulesFacts(
            in_place=redirect.in_place,
            serving=pointed is not None and pointed.can_serve,
            gone=not stands.installed,
            wanted=wanted is not None and wanted.inbound,
            refused=redirect.problem.value is not None,
        )
        self._gaps = self._gaps.observe(facts.in_place, now)
        return ready.can_rely_on_rules(facts, self._gaps, now)

    def _is_adopting(self) -> bool:
        """True if an adopted proxy has not answered yet. Until then nothing is withdrawn."""
        if self._was_whole or trio.current_time() - self._opened > ADOPTION:
            return False
        return any(view.is_adopted for view in self._proxy.instances.value.values())

    def _must_pause(self, effect: ready.SetServing) -> bool:
        """True if somebody else has overwritten the same values since they were written."""
        return self._writes.pause((effect.serving, effect.data_path), trio.current_time()) > 0

    async def _write(self, effect: ready.Effect, facts: ready.ReadinessFacts) -> None:
        if isinstance(effect, ready.SetServing) and self._must_pause(effect):
            return
        with trio.move_on_after(WRITE_TIMEOUT):
            try:
                if isinstance(effect, ready.SetReady):
                    await self._set_ready(effect, facts)
                else:
                    fields = {"serving": effect.serving, "dataPath": effect.data_path, "dataPathReason": effect.why}
                    await self._membership.patch_spec(fields)
                    self._writes.observe_write((effect.serving, effect.data_path), trio.current_time())
                    if effect.serving:
                        log_milestone(Starting.SERVING)
                    log.info("listing: [serving=%s data-path=%s]", effect.serving, effect.data_path)
                    # Wait until the watch has received our own write.
                    await self._membership.view.wait_for(lambda view: view is None or view.serving == effect.serving)
            except ApiRefusal as refusal:
                log.warning("the cluster refused the report: %s", refusal)
                await trio.sleep(POLL_INTERVAL)

    async def _set_ready(self, effect: ready.SetReady, facts: ready.ReadinessFacts) -> None:
        condition = effect.readiness
        await self._membership.set_ready(condition.ready, condition.reason, condition.message)
        if condition.ready:
            log_milestone(Starting.READY)
        log.info("listing: [ready=%s reason=%s message=%s]", condition.ready, condition.reason, condition.message)
        assert facts.workload is not None
        self._reported = ready.Reported(condition, facts.workload, facts.is_live, facts.live_since, facts.registered)


@asynccontextmanager
async def open_listing(
    config: ListingConfig,
    membership: MemberClient,
    identity: Identity,
    proxy: Proxy,
    redirect: Redirect,
    firewall: FirewallObserver,
    data_path: DataPathObserver,
    confirming: Confirming,
    endings: EndingSwitch,
    now: Now,
) -> AsyncIterator[Listing]:
    """List this machine while the block runs and its data path works. Withdraw it at the end, unless it hands over."""
    listing = Listing(membership, identity, proxy, redirect, firewall, data_path, confirming, now)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "probes", listing.run_probes_for_settings)
        nursery.start_soon(supervise, "listing", listing.report_for_ever)
        try:
            yield listing
        finally:
            nursery.cancel_scope.cancel()
            with shielded(WITHDRAW_TIMEOUT + config.drain + SPARE):
                await walk_back(membership, endings.value, config.drain)


async def walk_back(membership: MemberClient, ending: Ending, drain: float) -> None:
    """Withdraw this machine unless it hands over: Ready=False, `drain` seconds for the pods, `serving`=false.

    Then wait for the ports' withdrawal. There is no drain if no port was listed.
    """
    if ending is Ending.HAND_OVER:
        return
    was_listed, is_drained = True, False
    with trio.move_on_after(WITHDRAW_TIMEOUT) as limit:
        if membership.view.value is None:
            with trio.move_on_after(FIRST_VIEW):
                await membership.view.wait_for(lambda view: view is not None)
        evicted, view = membership.standing.value is Standing.EVICTED, membership.view.value
        was_listed = not evicted if view is None else view.serving or bool(view.workload_ports)
        # The controller withdraws an evicted member. The member writes nothing, but waits as well.
        reason = ready.LEAVING if ending is Ending.LEAVE else ready.STOPPED
        accepted = evicted or await _mark_not_ready(membership, reason)
        if was_listed:
            limit.deadline += drain
            # Pods that call by address use TLS until the ports are withdrawn, so that comes last.
            await _drain(drain)
            is_drained = True
        if accepted and not evicted:
            accepted = await _stop_serving(membership)
        if was_listed and accepted:
            # Without a view, the Member was deleted or never read.
            await membership.view.wait_for(
                lambda view: membership.standing.value is Standing.EVICTED if view is None else not view.workload_ports
            )
            log_milestone(Withdrawing.UNLISTED)
    if limit.cancelled_caught:
        log.warning("the ports were not withdrawn within %g s: going on without the cluster", WITHDRAW_TIMEOUT)
    if was_listed and not is_drained:
        await _drain(drain)


async def _drain(seconds: float) -> None:
    log.info("draining for %g s", seconds)
    await trio.sleep(seconds)
    log_milestone(Withdrawing.DRAINED)


async def _mark_not_ready(membership: MemberClient, reason: str) -> bool:
    """Write Ready=False; False if the cluster refuses the write."""
    view = membership.view.value
    try:
        if view is None or view.workload_uid is not None:
            await membership.set_ready(False, reason, "this machine withdraws from the mesh")
            log_milestone(Withdrawing.NOT_READY)
    except ApiRefusal as refusal:
        log.warning("going on without the cluster: %s", refusal)
        return False
    return True


async def _stop_serving(membership: MemberClient) -> bool:
    """Write that this machine stops serving; False if the cluster refuses the write."""
    view = membership.view.value
    try:
        if view is None or view.serving:
            await membership.patch_spec({"serving": False, "dataPath": "down"})
            log_milestone(Withdrawing.NOT_SERVING)
    except ApiRefusal as refusal:
        log.warning("going on without the cluster: %s", refusal)
        return False
    return True
