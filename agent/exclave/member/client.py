"""This machine's place in its mesh: its own Member followed, the settings kept, the heartbeat sent.

Rules: one object is watched, the own Member. Settings are fetched when the Member names others than those on disk, are
stored before they are used, and the last good ones are kept whatever happens. A heartbeat is one patch of the Lease,
sent every `heartbeat` seconds and never piled up. Everything here may fail without touching traffic: it is tried again
for ever. On leaving the Member is deleted, unless the cluster did that; what could not be undone stands in `remains`.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio

from exclave.api.lease import heartbeat_request
from exclave.api.member import READY, Condition, MemberView, view_member, with_condition
from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, MEMBERS, Object, Request, delete, get, patch
from exclave.api.settings import Settings, digest, parse_settings
from exclave.cluster.member_cluster import MemberCluster
from exclave.cluster.watch_events import Listed, Removed, WatchEvent
from exclave.config import Config
from exclave.ending import Ending, EndingSwitch
from exclave.errors import ApiRefusal, ClusterError, ExclaveError
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now
from exclave.member.address_choice import Kept
from exclave.member.addresses import LOOK_EVERY, find_address, find_here, find_local, first_carried, wait_moved
from exclave.member.facts import forget_boot_identity, read_boot_identity, read_facts
from exclave.member.membership_tracker import APART, ASK_ORPHAN_EVERY, StandingJudge
from exclave.member.record import (
    MembershipRecord,
    forget_membership,
    load_settings,
    note_eviction,
    store_membership,
    store_settings,
)
from exclave.member.state import Standing
from exclave.milestones import Leaving, tell

log = logging.getLogger(__name__)

HEARTBEAT = 10.0
"""Seconds between heartbeats while there are no settings to say so."""

LAST_WORDS = 10.0
"""Seconds that the requests made while closing may take, all in all."""

FETCHES = Backoff(first=1.0, most=60.0)

REFUSED = Backoff(first=1.0, most=APART, jitter=0.75)
"""Pauses of a refused watch. An API server that has just started knows no accounts and rights for some moments, and
every machine of the fleet is back at once."""


class Membership:
    """The own Member, the settings of its group, and what may be said to the cluster. Made by `open_member`."""

    def __init__(
        self,
        record: MembershipRecord,
        state: Path,
        cluster: MemberCluster,
        also_captured: tuple[str, ...],
        found: str,
        holder: str,
        now: Now,
    ) -> None:
        self.record = record
        # This machine's in the mesh, and local ones that connections to them arrive at.
        self.captured: Latest[tuple[str, ...]] = Latest(())
        self.found: Latest[str] = Latest(found)  # where this machine is reached now, once that is certain
        self.kept: Latest[Kept | None] = Latest(None)  # why another address than that is the one in the mesh
        self.walks: Latest[bool] = Latest(False)  # whether it can be reached there only after walking back
        self.view: Latest[MemberView | None] = Latest(None)
        self.settings: Latest[Settings | None] = Latest(None)
        self.settings_digest: str | None = None
        self.standing: Latest[Standing] = Latest(Standing.MEMBER)
        self.problem: Latest[str | None] = Latest(None)  # the settings that could not be used, for a person
        self.remains: list[str] = []  # what leaving could not undo
        self._state = state
        self._cluster = cluster
        self._also_captured = also_captured
        self._holder = holder
        self._now = now
        self._judge = StandingJudge()
        self._beaten: float | None = None
        self._beside: dict[str, Any] = {}  # fields that wait for company
        self._conditions: list[Object] = []  # of the ExternalWorkload, as last written
        if (stored := load_settings(state)) is not None:
            self._take_settings(*stored)

    @property
    def local_address(self) -> str:
        """Where a program of this machine is reached from here as from the mesh."""
        return find_local(self.captured.value)

    def heartbeat_age(self) -> float | None:
        """Seconds since a heartbeat was accepted last, by the wall clock; None before the first."""
        return None if self._beaten is None else max(0.0, self._now() - self._beaten)

    async def patch_spec(self, fields: dict[str, Any]) -> None:
        """Merge into the own Member's spec, however long that takes. Raises ApiRefusal if it cannot be."""
        whole = {**self._beside, **fields}
        if not whole:
            return  # somebody took it along
        await self._say(patch(MEMBERS, self.record.namespace, self.record.member, {"spec": whole}))
        self._beside = {key: value for key, value in self._beside.items() if whole.get(key) != value}

    def patch_beside(self, fields: dict[str, Any]) -> None:
        """Have fields merged with the next `patch_spec`, whoever calls it: what can wait costs no request."""
        self._beside.update(fields)

    async def set_ready(self, ready: bool, reason: str, message: str) -> None:
        """Write condition Ready of the own ExternalWorkload. Raises ApiRefusal, with status 404 if there is none."""
        conditions = with_condition(self._conditions, Condition(READY, ready, reason, message), self._now())
        body = {"status": {"conditions": conditions}}
        await self._say(patch(EXTERNAL_WORKLOADS, self.record.namespace, self.record.member, body, "status"))
        self._conditions = conditions

    def mark_leaving(self) -> None:
        """Note on disk that this machine was told to leave, so that a crash on the way does not bring it back."""
        self.record = replace(self.record, leaving=True)
        store_membership(self._state, self.record)
        tell(Leaving.NOTED)

    def claim(self, address: str, former: str) -> None:
        """Have `address` be the one that the Member is to say, on disk first, and `former` the one before it."""
        record = replace(self.record, address=address, former=former)
        if record != self.record:
            store_membership(self._state, record)
            self.record = record

    def carry(self, addresses: tuple[str, ...]) -> None:
        """Have proxy and rules serve these."""
        self.captured.set(tuple(dict.fromkeys((*addresses, *self._also_captured))) if addresses else ())

    async def read_listed_addresses(self) -> frozenset[str]:
        """The addresses that the ExternalWorkload has. Raises ClusterError."""
        request = get(EXTERNAL_WORKLOADS, self.record.namespace, self.record.member, "status")
        with self._judged():
            found = await self._cluster.send(request)
        return frozenset(str(one.get("ip", "")) for one in (found.get("spec") or {}).get("workloadIPs") or ())

    async def _say(self, request: Request) -> None:
        with self._judged():
            await self._cluster.send_patiently(request)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Tell the judge how a request with our credential fared. A server that is away says nothing about us."""
        try:
            yield
            self._judge.see_accepted()
        except ApiRefusal as refusal:
            self._see_refusal(refusal)
            raise
        finally:
            self._publish_standing()

    def _see_refusal(self, refusal: ApiRefusal) -> None:
        if refusal.status == 401:
            self._judge.see_refused(trio.current_time())
        else:
            self._judge.see_accepted()

    def _publish_standing(self) -> None:
        standing = self._judge.standing
        if standing is Standing.ORPHANED and self.standing.value is Standing.MEMBER:
            log.error("the API server does not accept this member's credential: join again; serving goes on until then")
        if standing is Standing.EVICTED and self.standing.value is not Standing.EVICTED:
            log.warning("the Member %s/%s was deleted: evicted", self.record.namespace, self.record.member)
        self.standing.set(standing)

    def _take_settings(self, settings: Settings, its_digest: str) -> None:
        self.settings_digest = its_digest
        self.settings.set(settings)

    # What runs while the door is open; each is started again if it fails.

    async def follow(self, draw: Callable[[], float] = random.random) -> None:
        """Follow the own Member for ever."""
        attempts = Attempts()
        while True:
            try:
                async with self._cluster.watch(MEMBERS, self.record.namespace, self.record.member) as events:
                    async for event in events:
                        attempts.succeeded()
                        self._see(event)
            except ApiRefusal as refusal:
                log.warning("cannot follow the own Member: %s", refusal)
                self._see_refusal(refusal)
                self._publish_standing()
            is_orphan = self.standing.value is Standing.ORPHANED
            pause = attempts.failed(REFUSED, draw())
            await trio.sleep(ASK_ORPHAN_EVERY if is_orphan else pause)

    def _see(self, event: WatchEvent) -> None:
        if isinstance(event, Listed):
            return  # not of one object
        if isinstance(event, Removed):
            self._judge.see_gone()
            self.view.set(None)
        else:
            view = view_member(event.object)
            self._judge.see_member(view)
            self.view.set(view)
        self._publish_standing()

    async def keep_settings(self) -> None:
        """Fetch the settings whenever the Member names others than ours. Each name is answered once."""
        answered: str | None = None
        attempts = Attempts()
        while True:
            wanted = await self._wait_for_settings(answered)
            try:
                await self._fetch_settings()
            except ClusterError as problem:
                log.warning("the settings were not fetched: %s", problem)
                await trio.sleep(attempts.failed(FETCHES, 0.5))
                continue
            answered = wanted
            attempts.succeeded()

    async def _wait_for_settings(self, answered: str | None) -> str:
        view = await self.view.wait_for(
            lambda view: (
                view is not None and view.settings is not None and view.settings not in (answered, self.settings_digest)
            )
        )
        assert view is not None and view.settings is not None
        return view.settings

    async def _fetch_settings(self) -> None:
        """Raises ClusterError; settings that cannot be used or stored are a problem that is told, and ours stay."""
        with self._judged():
            found = await self._cluster.send(get(CONFIG_MAPS, self.record.namespace, settings_name(self.record.group)))
        text = str((found.get("data") or {}).get(SETTINGS_KEY, ""))
        try:
            settings = parse_settings(text)
            store_settings(self._state, text)
        except (ValueError, ExclaveError) as problem:
            self.problem.set(f"new settings cannot be used, the last good ones are kept: {problem}")
            log.error("%s", self.problem.value)
            return
        self.problem.set(None)
        self._take_settings(settings, digest(text))
        log.info("settings %s", (self.settings_digest or "")[:12])

    async def beat(self) -> None:
        """Send heartbeats for ever."""
        failing = False
        while True:
            found = self.found.value
            try:
                await self.beat_once()
                failing = False
            except ClusterError as problem:
                if self.found.value != found:
                    continue  # it was on its way from an address that is gone
                if not failing:
                    log.warning("the heartbeat was not sent, and is tried again: %s", problem)
                failing = True
            settings = self.settings.value
            pause = settings.heartbeat if settings else HEARTBEAT
            await trio.sleep(ASK_ORPHAN_EVERY if self.standing.value is Standing.ORPHANED else pause)

    async def beat_once(self) -> None:
        """Send one heartbeat. Raises ClusterError."""
        with self._judged():
            await self._cluster.send(
                heartbeat_request(self.record.namespace, self.record.member, self._holder, self._now())
            )
        self._beaten = self._now()

    async def describe_machine(self, zone: str | None) -> None:
        """Bring the facts in the Member up to date, once."""
        facts = await read_facts(zone)
        view = await self.view.wait_for(lambda view: view is not None)
        assert view is not None
        changes: dict[str, Any] = {}
        if view.facts != facts:
            changes["facts"] = {name: facts.get(name) for name in sorted({*view.facts, *facts})}
        await self.patch_spec(changes)

    async def follow_address(self, override: str | None) -> NoReturn:
        """Notice where this machine is reached, for ever."""
        while True:
            found = await wait_moved(self._cluster.server_addresses, override, self.found.value or self.record.address)
            last = self.found.value or self.record.address
            if last not in find_here({last}):
                self._cluster.start_afresh()
            self.found.set(found.address)

    async def follow_left(self) -> NoReturn:
        """Notice, for ever, when an address that this machine was reached at goes, however long ago it was left: what
        is open to the cluster may be from there, and would be silent for half a minute."""
        stood: frozenset[str] = frozenset()
        while True:
            stands = find_here(stood | {self.found.value})
            if stood - stands:
                self._cluster.start_afresh()
            stood = stands
            await trio.sleep(LOOK_EVERY)

    async def close(self, ending: Ending, remember: Callable[[], None]) -> None:
        """Undo what the ending asks for. Writes nothing to a cluster that has evicted us."""
        evicted = self.standing.value is Standing.EVICTED
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS):
            try:
                if ending is Ending.STOP and not evicted:
                    await self.beat_once()
                elif ending is Ending.LEAVE and not evicted:
                    await self._delete_member()
            except ClusterError as problem:
                log.warning("%s", problem)
        if ending is Ending.LEAVE:
            if evicted:
                remember()
            forget_membership(self._state)

    async def _delete_member(self) -> None:
        remaining = f"Member {self.record.namespace}/{self.record.member}"
        self.remains.append(remaining)
        try:
            await self._cluster.send_patiently(delete(MEMBERS, self.record.namespace, self.record.member))
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
        self.remains.remove(remaining)
        tell(Leaving.DELETED)


@asynccontextmanager
async def open_member(
    record: MembershipRecord, config: Config, cluster: MemberCluster, endings: EndingSwitch, now: Now
) -> AsyncIterator[Membership]:
    """Be this member for as long as the door is open. Starts from disk; raises HostError only."""
    found = find_address(cluster.server_addresses.value, config.member.address, record.address)
    if found is not None:
        log.info("%s", found)
    else:
        log.warning("address: [chosen=%s why=no route now, the last one is kept]", record.address or "none")
    holder = await read_boot_identity(config.paths.runtime)
    where = found.address if found is not None else ""
    also_captured = config.member.captured_addresses
    membership = Membership(record, config.paths.state, cluster, also_captured, where, holder, now)
    membership.carry(first_carried(record, where))
    async with open_bare_nursery() as nursery:
        for name, part in (
            ("member", membership.follow),
            ("settings", membership.keep_settings),
            ("heartbeat", membership.beat),
            ("facts", partial(membership.describe_machine, config.member.zone)),
            ("address", partial(membership.follow_address, config.member.address)),
            ("addresses left", membership.follow_left),
        ):
            nursery.start_soon(supervise, name, part)
        try:
            yield membership
        finally:
            nursery.cancel_scope.cancel()
            remember = partial(note_eviction, config.paths.state, membership.record, now())
            await membership.close(endings.value, remember)
            if endings.value is Ending.LEAVE:
                forget_boot_identity(config.paths.runtime)
