"""A move to another address: serve it by a swap, claim it in the cluster, then drop the former one.

`member/addresses.py` decides, this module executes. Proxy, rules and swap follow `MemberClient.captured`.
"""

import logging
from typing import NoReturn

import trio

from exclave.api.member import MemberView
from exclave.errors import ClusterError
from exclave.kit.tasks.backoff import Backoff
from exclave.kit.tasks.latest import open_any_change
from exclave.member.addresses import (
    AddressChoice,
    AddressFacts,
    AddressProblem,
    choose_addresses,
    conflict_problem,
    on_this_machine,
    slow_move_problem,
)
from exclave.member.client import MemberClient
from exclave.member.write_limit import WriteLimit
from exclave.milestones import Moving, log_milestone
from exclave.proxy.instance import Proxy
from exclave.redirect.reconciler import Redirect

log = logging.getLogger(__name__)

POLL_INTERVAL = 10.0  # seconds between two polls of the interfaces, which publish no changes
MOVING_INTERVAL = 1.0  # the same during a move
PATCH_TIMEOUT = 10.0  # seconds until the watch must show the address that was patched into the Member

POLLS = Backoff(first=1.0, most=60.0, jitter=0.0)  # without a controller the listing stays wrong for hours


class AddressMover:
    """Moves this machine to its address. `drain`: seconds for which pods may still use an unlisted address."""

    def __init__(self, membership: MemberClient, proxy: Proxy, redirect: Redirect, drain: float) -> None:
        self._membership = membership
        self._proxy = proxy
        self._redirect = redirect
        self._drain = drain
        self._refused = ""
        self._found_at: float | None = None
        self._polls, self._poll_at = 0, 0.0
        self._left_at: float | None = None
        self._writes = WriteLimit()
        self._patched: MemberView | None = None  # the Member before the last patch
        self._overwritten_by = ""  # the address that somebody else writes into the Member

    async def run(self) -> NoReturn:
        """Serve and claim this machine's address until cancelled. Raises ApiRefusal."""
        membership, proxy, redirect = self._membership, self._proxy, self._redirect
        of_member = (membership.found, membership.view, membership.settings)
        of_path = (proxy.chosen, proxy.instances, redirect.wanted, redirect.observed)
        async with open_any_change(*of_member, *of_path) as change:
            while True:
                pause = await self._move()
                await change.wait(pause)

    async def _move(self) -> float:
        """Execute the next step. Returns the seconds to wait for a change before the step after it."""
        facts = self._facts()
        choice = choose_addresses(facts)
        self._publish(facts, choice)
        if choice.revert:
            log.error("address: [refused=%s back=%s]", facts.claimed, facts.former)
            self._refused = facts.claimed
            self._membership.set_address(facts.former, "")
        elif choice.claim:
            self._claim(facts, choice.claim)
        if not await self._publish_claim():
            return MOVING_INTERVAL
        if self._membership.record.former:
            await self._drop_former()
        is_done = not choice.moving_to and self._membership.record.address == facts.claimed
        return POLL_INTERVAL if is_done and self._membership.record.former == facts.former == "" else MOVING_INTERVAL

    def _facts(self) -> AddressFacts:
        membership = self._membership
        record, view, settings = membership.record, membership.view.value, membership.settings.value
        asked = {record.address, record.former, membership.found.value} - {""}
        registered = view.registered if view is not None else None
        return AddressFacts(
            claimed=record.address,
            found=membership.found.value,
            former=record.former,
            refused=self._refused,
            here=on_this_machine(asked) if len(asked) > 1 else frozenset(),
            served=self._served(),
            networks=settings.group.networks if settings is not None else (),
            listed=None if view is None else view.serving or bool(view.workload_ports),
            is_published=view is not None and view.addresses == (record.address,),
            is_registered=registered is None or registered.status,
        )

    def _served(self) -> frozenset[str]:
        """The addresses that the kernel's rules redirect to a proxy with the newest settings."""
        settings, wanted = self._membership.settings.value, self._redirect.wanted.value
        if settings is None or wanted is None or not self._redirect.in_place or not self._proxy.has_settings(settings):
            return frozenset()
        return frozenset(wanted.addresses) if wanted.instance == self._proxy.ready.value else frozenset()

    def _publish(self, facts: AddressFacts, choice: AddressChoice) -> None:
        membership = self._membership
        membership.set_served_addresses(choice.serve)
        if choice.moving_to:
            self._found_at = trio.current_time() if self._found_at is None else self._found_at
            problem = slow_move_problem(facts, trio.current_time() - self._found_at)
        else:
            self._found_at, problem = None, choice.problem
        problem = problem or self._conflict(facts.claimed)
        if problem is not None and problem != membership.address_problem.value:
            log.warning("address: %s", problem.why)
        membership.address_problem.set(problem)
        membership.needs_walk_back.set(choice.walk_back)

    def _conflict(self, claimed: str) -> AddressProblem | None:
        view = self._membership.view.value
        if not self._writes.is_conflict((claimed,), trio.current_time()):
            return None
        # While the watch brings nothing, the view shows what was there before.
        if view is not None and view is not self._patched and view.addresses and view.addresses != (claimed,):
            self._overwritten_by = view.addresses[0]
        return conflict_problem(claimed, self._overwritten_by) if self._overwritten_by else None

    def _claim(self, facts: AddressFacts, address: str) -> None:
        former = facts.claimed if facts.listed is not False and facts.is_registered else ""
        log.info("address: [claimed=%s was=%s]", address, facts.claimed or "none")
        self._membership.set_address(address, former)
        self._left_at, self._polls, self._poll_at = None, 0, 0.0
        log_milestone(Moving.NOTED)

    async def _publish_claim(self) -> bool:
        """Patch the claimed address into the Member, unless it must wait. True if the Member has it already."""
        membership, wanted = self._membership, (self._membership.record.address,)
        view = membership.view.value
        if view is None or wanted == ("",) or view.addresses == wanted:
            return True
        if self._writes.pause(wanted, trio.current_time()) > 0:
            return False
        membership.patch_later({"addresses": list(wanted)})  # any other patch sends it, too
        with trio.move_on_after(PATCH_TIMEOUT):
            await membership.patch_spec({})
            self._patched = view
            self._writes.observe_write(wanted, trio.current_time())
            await membership.view.wait_for(lambda view: view is None or view.addresses == wanted)
            log_milestone(Moving.PATCHED)
        return False

    async def _drop_former(self) -> None:
        """Drop the former address once it has been unlisted for `drain` seconds."""
        membership, now = self._membership, trio.current_time()
        former = membership.record.former
        if self._left_at is not None and now - self._left_at >= self._drain:
            log.info("address: [left=%s]", former)
            membership.set_address(membership.record.address, "")
            self._left_at = None
            log_milestone(Moving.LEFT)
        elif self._left_at is None and now >= self._poll_at:
            self._poll_at = now + POLLS.pause(self._polls, 0.0)
            self._polls += 1
            try:
                listed = await membership.read_listed_addresses()
            except ClusterError as problem:
                log.info("address: whether %s is still listed is not known: %s", former, problem)
            else:
                self._left_at = now if former not in listed else None
