"""Moves traffic to another proxy instance, and ends the former one.

If anything fails before one transaction has pointed the rules to the new instance, only the new one is ended. After a
crash, the next agent finds which instance the rules point to, and drains the other.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

import trio

from exclave.config import ProxyConfig
from exclave.errors import ClusterError, ExclaveError, Fault, HostError
from exclave.kit.host.procfs import read_tcp_tables
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import FAMILIES, INBOUND_PORT, OUTBOUND_PORT, Instance, instance_address, trial_address
from exclave.member.client import MemberClient
from exclave.proxy.instance import Proxy
from exclave.proxy.published import InstanceView
from exclave.proxy.states import InstanceState
from exclave.redirect.reconciler import Redirect
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.swap.evidence import count_clients, count_policies, count_sockets, try_connection, wanted_policies
from exclave.swap.plan import (
    QUIET_POLLS,
    BeginSwap,
    DrainOther,
    RejectRequest,
    SwapFacts,
    SwapReason,
    drain_time,
    is_swap_due,
    plan_swap,
)

log = logging.getLogger(__name__)

POLICY_TIME = 10.0  # seconds for the policies to arrive
RULES_TIME = 10.0  # seconds for the kernel to have the wanted rules
DRAIN_INTERVAL = 1.0  # seconds between two counts of the connections of an instance that drains
POLICY_INTERVAL = 0.1  # seconds between two reads of the metrics of an instance whose policies have not arrived


class SwapPhase(Enum):
    """The phases of a swap, in their order; the value is shown to people."""

    STARTING = "starting the other instance"
    CERTIFYING = "waiting until it serves our certificate"
    POLICIES = "waiting for its policies"
    TRYING = "trying a connection through it"
    MOVING = "replacing the rules"
    DRAINING = "waiting until the old instance is quiet"
    ENDING = "ending the old instance"


@dataclass(frozen=True)
class SwapOutcome:
    """The result of a swap from `old` to `new`: why it was made, its seconds, and its error, None if it succeeded."""

    old: Instance | None
    new: Instance | None
    reason: SwapReason
    took: float = 0.0
    error: ExclaveError | None = None


@dataclass(eq=False)
class _SwapRequest:
    """A person's request for a swap. `outcome` is set when the swap has succeeded or failed."""

    forced: bool
    outcome: Latest[SwapOutcome | None]


class Swap:
    """Moves traffic. Made by `open_swap`. `results` counts swaps by result.

    `phase`: of the running swap, None between swaps. `problem`: why the last swap was aborted, None after a success.
    `clients`: the connections that the old instance still has.
    """

    def __init__(
        self,
        config: ProxyConfig,
        membership: MemberClient,
        proxy: Proxy,
        trial: Latest[Instance | None],
        redirect: Redirect,
    ) -> None:
        self.phase: Latest[SwapPhase | None] = Latest(None)
        self.problem: Latest[str | None] = Latest(None)
        self.results: Counter[str] = Counter()
        self.clients: Latest[int | None] = Latest(None)
        self._bound, self._drain_time = config.swap_bound, config.drain
        self._membership = membership
        self._proxy = proxy
        self._trial = trial
        self._redirect = redirect
        self._request: Latest[_SwapRequest | None] = Latest(None)
        self._aborts = 0
        self._aborted_at: float | None = None
        self._memory_at: float | None = None

    async def request(self, *, forced: bool) -> SwapOutcome:
        """Request a swap and wait for its outcome. Concurrent requests share one swap.

        `forced`: an instance that drains is ended at once, and the swap does not need Linkerd's policy controller.
        """
        request = self._request.value
        if request is None or (forced and not request.forced):
            request = _SwapRequest(forced, request.outcome if request else Latest(None))
            self._request.set(request)
        outcome = await request.outcome.wait_for(lambda outcome: outcome is not None)
        assert outcome is not None
        return outcome

    async def run(self) -> NoReturn:
        """Execute the planned actions until cancelled."""
        proxy = self._proxy
        self._trial.set(None)  # an unexpected exception may have left one
        sources = (proxy.chosen, proxy.ready, proxy.instances, proxy.outdated, self._request)
        async with open_any_change(*sources) as change:
            while True:
                action = plan_swap(self._facts(), trio.current_time())
                if isinstance(action, DrainOther):
                    await self._drain(action.instance)
                elif isinstance(action, BeginSwap):
                    await self._swap(action.reason)
                elif isinstance(action, RejectRequest):
                    hint = "see why: exclave status"
                    error = HostError(Fault.PROXY_UNUSABLE, "no proxy is ready: there is no traffic to move", hint)
                    self._answer(SwapOutcome(proxy.chosen.value, None, SwapReason.ASKED, error=error))
                else:
                    await change.wait(max(0.0, action.until - trio.current_time()))

    def _facts(self) -> SwapFacts:
        chosen = self._proxy.chosen.value
        return SwapFacts(
            chosen=chosen,
            is_ready=self._proxy.ready.value is not None,
            others=tuple(instance for instance in self._proxy.instances.value if instance != chosen),
            outdated=self._proxy.outdated.value,
            is_asked=self._request.value is not None,
            aborts=self._aborts,
            aborted_at=self._aborted_at,
            memory_at=self._memory_at,
        )

    def _answer(self, outcome: SwapOutcome) -> None:
        request = self._request.value
        if request is not None:
            self._request.set(None)
            request.outcome.set(outcome)

    # Moving traffic

    async def _swap(self, reason: SwapReason) -> None:
        old, began = self._proxy.chosen.value, trio.current_time()
        assert old is not None
        new: Instance | None = None
        log.info("swap: [step=begin from=%s reason=%s]", old, reason.value)
        try:
            self._enter(SwapPhase.STARTING)
            new = await self._proxy.start()
            await self._prove(old, new)
            self._enter(SwapPhase.MOVING)
            await self._point_to(new)
        except ExclaveError as problem:
            outcome = SwapOutcome(old, new, reason, trio.current_time() - began, problem)
            await self._abort(outcome)
        else:
            outcome = SwapOutcome(old, new, reason, trio.current_time() - began)
            self._aborts, self._aborted_at = 0, None
            self._memory_at = trio.current_time() if reason is SwapReason.MEMORY else self._memory_at
            self.results["completed"] += 1
            self.problem.set(None)
            log.info("swap: [from=%s to=%s reason=%s took=%.2fs]", old, new, reason.value, outcome.took)
        self.phase.set(None)
        self._answer(outcome)

    async def _prove(self, old: Instance, new: Instance) -> None:
        """Prove that `new` can take the traffic. Raises ExclaveError if it cannot, unless `old` has ended meanwhile."""
        self._enter(SwapPhase.CERTIFYING)
        await self._wait_certified(new)
        try:
            self._enter(SwapPhase.POLICIES)
            if await self._have_policies(old, new):
                self._enter(SwapPhase.TRYING)
                await self._try(new)
        except ExclaveError as problem:
            if old in self._proxy.instances.value or new not in self._proxy.instances.value:
                raise
            log.warning("swap: %s; but proxy %s has ended, so %s takes over", problem.message, old, new)

    async def _wait_certified(self, new: Instance) -> None:
        def is_decided(views: Mapping[Instance, InstanceView]) -> bool:
            return new not in views or views[new].can_serve or views[new].state is InstanceState.ENDING

        await self._proxy.instances.wait_for(is_decided)
        self._must_run(new)

    async def _have_policies(self, old: Instance, new: Instance) -> bool:
        """Wait for the policies of `new`; False if they have not arrived and the swap is forced."""
        view = self._proxy.instances.value.get(old)
        if view is not None and view.is_admin_denied:
            # The trial is proof enough: before it forwards a connection, the new proxy requests its destination's
            # policy.
            log.info("swap: the metrics are denied, so only the trial connection proves the new proxy")
            return True
        settings = self._membership.settings.value
        wanted = wanted_policies(tuple(port.port for port in settings.group.ports) if settings else ())
        with trio.move_on_after(POLICY_TIME):
            while True:
                self._must_run(new)
                metrics = await self._proxy.read_metrics(new)
                if metrics is not None and count_policies(metrics) >= wanted:
                    return True
                await trio.sleep(POLICY_INTERVAL)
        if self._is_forced:
            log.warning("swap: the policies of proxy %s have not arrived, but it is forced: no trial is made", new)
            return False
        # Without policies, new connections through the new proxy would hang.
        raise ClusterError(
            Fault.UNREACHABLE,
            f"the policies of the new proxy have not arrived within {POLICY_TIME:.0f} s: "
            "Linkerd's policy controller does not answer",
            "see whether linkerd-destination runs, and the new proxy's log; to swap anyway: exclave proxy swap --force",
        )

    async def _try(self, new: Instance) -> None:
        view = self._must_run(new)
        self._trial.set(new)
        try:
            await self._wait_rules(lambda policy: policy.trial == new)
            for family in self._proxy.families(new):
                listener = (instance_address(new, family), OUTBOUND_PORT)
                await try_connection(trial_address(family), view.pid, listener)
            self._must_run(new)
        except ExclaveError:
            self._trial.set(None)
            raise

    async def _point_to(self, new: Instance) -> None:
        """Replace the rules in one transaction: without the trial, and pointing to the new instance."""
        self._must_run(new)
        self._trial.set(None)
        self._proxy.choose(new)
        await self._wait_rules(lambda policy: policy.instance == new and policy.trial is None)

    async def _wait_rules(self, accept: Callable[[RedirectPolicy], bool]) -> None:
        """Wait until the kernel has acceptable rules. Raises HostError if it refuses them or takes too long."""
        redirect = self._redirect
        with trio.move_on_after(RULES_TIME):
            async with open_any_change(redirect.wanted, redirect.observed, redirect.problem) as change:
                async for _ in change.wakes():
                    wanted = redirect.wanted.value
                    if wanted is not None and accept(wanted) and redirect.in_place:
                        return
                    if redirect.problem.value is not None:
                        raise redirect.problem.value
        raise HostError(
            Fault.NFT_UNUSABLE,
            f"the kernel did not have the new rules within {RULES_TIME:.0f} s",
            "see whether another program changes the tables at the same time: nft monitor",
        )

    async def _abort(self, outcome: SwapOutcome) -> None:
        """Return to `old` if it still runs. End `new`, unless the rules still point to it: then it is drained later."""
        old, new, error = outcome.old, outcome.new, outcome.error
        assert old is not None and error is not None
        self._aborts += 1
        self._aborted_at = trio.current_time()
        self.results["aborted"] += 1
        self.problem.set(f"a swap of the proxy ({outcome.reason.value}) was aborted: {error.message}")
        log.error("swap: [aborted from=%s reason=%s] %s", old, outcome.reason.value, error.message)
        self._trial.set(None)
        if new is None or old not in self._proxy.instances.value:
            return
        self._proxy.choose(old)
        with suppress(HostError):
            await self._wait_rules(lambda policy: policy.instance == old and policy.trial is None)
        if self._redirect.observed.value.instance != new:
            self._proxy.dismiss(new)
            await self._proxy.wait_gone(new)

    # Draining

    async def _drain(self, old: Instance) -> None:
        """End an instance without open connections, or after the drain time. It may be chosen again before that."""
        self._enter(SwapPhase.DRAINING)
        self._proxy.retire(old)
        quiet, began = 0, trio.current_time()
        while quiet < QUIET_POLLS and trio.current_time() < began + self._longest_drain() and not self._is_forced:
            clients = await self._count_clients(old)
            self.clients.set(clients)
            quiet = quiet + 1 if clients == 0 else 0
            if old == self._proxy.chosen.value or old not in self._proxy.instances.value:
                break
            with trio.move_on_after(DRAIN_INTERVAL):
                await self._request.wait_change()
        self.clients.set(None)
        if old != self._proxy.chosen.value and old in self._proxy.instances.value:
            self._enter(SwapPhase.ENDING)
            log.info("swap: [step=end instance=%s why=%s]", old, "quiet" if quiet >= QUIET_POLLS else "bound")
            self._proxy.dismiss(old)
            await self._proxy.wait_gone(old)
        self.phase.set(None)

    def _longest_drain(self) -> float:
        is_due = is_swap_due(self._facts(), trio.current_time())
        return drain_time(self._bound, self._drain_time, is_due=is_due)

    async def _count_clients(self, old: Instance) -> int:
        """Open connections of an instance, by its metrics or by the kernel, whichever is more."""
        addresses = frozenset(instance_address(old, family) for family in FAMILIES)
        ports = frozenset({INBOUND_PORT, OUTBOUND_PORT})
        sockets = 0
        for table in await trio.to_thread.run_sync(read_tcp_tables):
            sockets += count_sockets(table, addresses, ports)
        metrics = await self._proxy.read_metrics(old)
        return max(sockets, count_clients(metrics) if metrics is not None else 0)

    @property
    def _is_forced(self) -> bool:
        return self._request.value is not None and self._request.value.forced

    def _must_run(self, new: Instance) -> InstanceView:
        """The view of the new instance. Raises HostError if it has ended or is being ended."""
        view = self._proxy.instances.value.get(new)
        if view is None or view.state is InstanceState.ENDING:
            reason = self._proxy.exit_messages.get(new) if view is None else f"proxy {new} was not ready in time"
            raise HostError(
                Fault.PROXY_UNUSABLE, reason or f"proxy {new} has ended", "see its log in the runtime folder"
            )
        return view

    def _enter(self, phase: SwapPhase) -> None:
        log.info("swap: [step=%s]", phase.name.lower())
        self.phase.set(phase)


@asynccontextmanager
async def open_swap(
    config: ProxyConfig, membership: MemberClient, proxy: Proxy, trial: Latest[Instance | None], redirect: Redirect
) -> AsyncIterator[Swap]:
    """Move traffic whenever there is a reason, while open. The next agent completes an unfinished swap."""
    swap = Swap(config, membership, proxy, trial, redirect)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "swap", swap.run)
        yield swap
        nursery.cancel_scope.cancel()
