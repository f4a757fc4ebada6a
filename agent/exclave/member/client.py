"""This machine's client of its own objects: watches the Member and the settings, sends heartbeats, patches.

A failure is retried until it succeeds, and the last good settings stay in use. Nothing here touches traffic.
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

from exclave.api.member import READY, Condition, MemberView, heartbeat_request, view_member, with_condition
from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, MEMBERS, Object, Request, delete, get, patch
from exclave.api.settings import NOT_THE_CONTROLLERS, Settings, digest, parse_settings
from exclave.cluster.member_cluster import MemberCluster
from exclave.cluster.watch import Listed, Removed, WatchEvent
from exclave.config import Config
from exclave.ending import Ending, EndingSwitch
from exclave.errors import ApiRefusal, ClusterError, ExclaveError, HostError
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now
from exclave.member import addresses
from exclave.member import record as files
from exclave.member.addresses import AddressProblem
from exclave.member.facts import forget_boot_identity, read_boot_identity, read_facts
from exclave.member.record import LastAnswer, MembershipRecord
from exclave.member.state import APART, ASK_ORPHAN_EVERY, MembershipTracker, Standing
from exclave.milestones import Leaving, log_milestone

log = logging.getLogger(__name__)

MISSED = 3  # heartbeats in a row after which the controller counts a member as silent: controller/policy/liveness.py
HEARTBEAT = 10.0  # seconds between heartbeats before there are settings
CLOSE_TIMEOUT = 10.0  # seconds for all requests that are sent while closing

DIFFERS = 10.0  # seconds after which other settings than the Member names are reported
FETCHES = Backoff(first=1.0, most=60.0)

# A Member that was not found is read so often again, so many seconds apart, before it counts as deleted: an API server
# that is behind, or whose etcd was restored, may not have it for a while. The end of a membership deletes its key.
GONE_READS, GONE_APART = 2, 5.0

REFUSED = Backoff(first=1.0, most=APART, jitter=0.75)  # a restarted API server refuses all its clients at first


class MemberClient:
    """The own Member, its group's settings, and patches of both. Made by `open_member`."""

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
        self.captured: Latest[tuple[str, ...]] = Latest(())  # addresses that the proxy and the rules serve
        self.found: Latest[str] = Latest(found)  # this machine's address now; "" while unknown
        self.address_problem: Latest[AddressProblem | None] = Latest(None)  # why `found` is not claimed
        self.needs_walk_back: Latest[bool] = Latest(False)  # to serve `found`, restart the data path
        self.view: Latest[MemberView | None] = Latest(None)
        self.settings: Latest[Settings | None] = Latest(None)
        self.settings_digest: str | None = None
        self.reachable = cluster.reachable
        self.looping = cluster.looping  # why changes of the own Member arrive late
        self.standing: Latest[Standing] = Latest(Standing.MEMBER)
        self.problem: Latest[str | None] = Latest(None)  # why newer settings are not used
        self.silence: Latest[str | None] = Latest(None)  # why the cluster counts this member as silent
        self.remains: list[str] = []  # what a leave could not undo
        self._state = state
        self._cluster = cluster
        self._also_captured = also_captured
        self._holder = holder
        self._now = now
        self._tracker = MembershipTracker()
        self._heartbeat_at: float | None = None
        self._for_later: dict[str, Any] = {}  # fields of the next patch_spec
        self._conditions: list[Object] = []  # of the ExternalWorkload, as last patched
        # The cluster's last answer, to an earlier agent if there was none to this one, and its time (epoch seconds).
        self.last_answer: LastAnswer | None = None
        self.answered_at: float | None = None
        if (earlier := files.load_answer(state, record)) is not None:
            self.last_answer, self.answered_at = earlier
        if (stored := files.load_settings(state)) is not None:
            settings, self.settings_digest = stored
            self.settings.set(settings)  # of the ExternalWorkload, as patched last

    @property
    def local_address(self) -> str:
        """The address at which local programs accept connections from the mesh."""
        return addresses.first_local(self.captured.value)

    def heartbeat_age(self) -> float | None:
        """Seconds since the last accepted heartbeat, by the wall clock; None before the first."""
        return None if self._heartbeat_at is None else max(0.0, self._now() - self._heartbeat_at)

    async def patch_spec(self, fields: dict[str, Any]) -> None:
        """Patch the own Member's spec; retry until the server answers. Raises ApiRefusal."""
        whole = {**self._for_later, **fields}
        if not whole:
            return  # another patch has sent the fields
        await self._patch(patch(MEMBERS, self.record.namespace, self.record.member, {"spec": whole}))
        self._for_later = {key: value for key, value in self._for_later.items() if whole.get(key) != value}

    def patch_later(self, fields: dict[str, Any]) -> None:
        """Add fields to the next `patch_spec`, which saves a request."""
        self._for_later.update(fields)

    async def set_ready(self, ready: bool, reason: str, message: str) -> None:
        """Write condition Ready of the own ExternalWorkload. Raises ApiRefusal, with status 404 if there is none."""
        conditions = with_condition(self._conditions, Condition(READY, ready, reason, message), self._now())
        body = {"status": {"conditions": conditions}}
        await self._patch(patch(EXTERNAL_WORKLOADS, self.record.namespace, self.record.member, body, "status"))
        self._conditions = conditions

    def mark_leaving(self) -> None:
        """Store that this machine leaves: after a crash, the next agent continues."""
        self.record = replace(self.record, leaving=True)
        files.store_membership(self._state, self.record)
        log_milestone(Leaving.NOTED)

    def set_address(self, address: str, former: str) -> None:
        """Claim `address` and store `former`, on disk first: after a crash, the next agent continues."""
        record = replace(self.record, address=address, former=former)
        if record != self.record:
            files.store_membership(self._state, record)
            self.record = record

    def set_served_addresses(self, served: tuple[str, ...]) -> None:
        """Set the addresses that proxy and rules serve."""
        self.captured.set(tuple(dict.fromkeys((*served, *self._also_captured))) if served else ())

    async def read_listed_addresses(self) -> frozenset[str]:
        """The addresses in the ExternalWorkload. Raises ClusterError."""
        request = get(EXTERNAL_WORKLOADS, self.record.namespace, self.record.member, "status")
        with self._tracking_auth():
            found = await self._cluster.send(request)
        return frozenset(str(one.get("ip", "")) for one in (found.get("spec") or {}).get("workloadIPs") or ())

    async def _patch(self, request: Request) -> None:
        with self._tracking_auth():
            await self._cluster.send_patiently(request)

    @contextmanager
    def _tracking_auth(self) -> Iterator[None]:
        """Report to the tracker whether our credential was accepted. A missing answer is not reported."""
        try:
            yield
            self._tracker.observe_accepted()
            self.answered_at = self._now()
            files.touch_answer(self._state, self.answered_at)
        except ApiRefusal as refusal:
            self._observe_refusal(refusal)
            raise
        finally:
            self._publish_standing()

    def _observe_refusal(self, refusal: ApiRefusal) -> None:
        if refusal.status == 401:
            self._tracker.observe_refused(trio.current_time())
        else:
            self._tracker.observe_accepted()

    def _publish_standing(self) -> None:
        standing = self._tracker.standing
        if standing is Standing.ORPHANED and self.standing.value is Standing.MEMBER:
            log.error("the API server refuses this member's credential: join again; serving goes on until then")
        if standing is Standing.EVICTED and self.standing.value is not Standing.EVICTED:
            log.warning("the Member %s/%s was deleted: evicted", self.record.namespace, self.record.member)
        self.standing.set(standing)

    # Tasks while the client is open. Each restarts when it fails.

    async def follow(self, draw: Callable[[], float] = random.random) -> None:
        """Watch the own Member until cancelled."""
        attempts = Attempts()
        while True:
            try:
                async with self._cluster.watch(MEMBERS, self.record.namespace, self.record.member) as events:
                    async for event in events:
                        attempts.succeeded()
                        if not isinstance(event, Removed) or await self._is_gone():
                            self._observe(event)
            except ApiRefusal as refusal:
                log.warning("cannot follow the own Member: %s", refusal)
                self._observe_refusal(refusal)
                self._publish_standing()
            is_orphan = self.standing.value is Standing.ORPHANED
            pause = attempts.failed(REFUSED, draw())
            await trio.sleep(ASK_ORPHAN_EVERY if is_orphan else pause)

    async def _is_gone(self) -> bool:
        """Read the own Member again, which was not found; False if it is there. Errors prove neither."""
        log.warning("the Member %s/%s was not found; it is read again", self.record.namespace, self.record.member)
        missed = 0
        while missed < GONE_READS:
            await trio.sleep(ASK_ORPHAN_EVERY if self.standing.value is Standing.ORPHANED else GONE_APART)
            try:
                with self._tracking_auth():
                    await self._cluster.send(get(MEMBERS, self.record.namespace, self.record.member))
            except ApiRefusal as refusal:
                missed += refusal.status == 404
            except ClusterError as problem:
                log.warning("%s", problem)
            else:
                return False
        return True

    def _observe(self, event: WatchEvent) -> None:
        if isinstance(event, Listed):
            return  # only a watch of a collection yields it
        if isinstance(event, Removed):
            self._tracker.observe_deleted()
            self.view.set(None)
        else:
            view = view_member(event.object)
            self._tracker.observe_member(view)
            self.view.set(view)
            self._store_answer(view)
        self._publish_standing()

    def _store_answer(self, view: MemberView) -> None:
        ports = tuple(sorted(view.workload_ports))
        answer = LastAnswer(self.record.namespace, self.record.member, view.serving, ports, view.cordoned)
        self.answered_at = self._now()
        if answer != self.last_answer:
            self.last_answer = answer
            try:
                files.store_answer(self._state, answer)
            except HostError as problem:
                log.warning("the status after a restart may be outdated: %s", problem)
        files.touch_answer(self._state, self.answered_at)

    async def follow_settings(self) -> None:
        """Fetch the settings once for each new digest that the Member names."""
        answered: str | None = None
        attempts = Attempts()
        differs_since: float | None = None
        while True:
            wanted = await self._wait_for_settings(answered)
            try:
                is_wanted = await self._fetch_settings(wanted)
            except ClusterError as problem:
                log.warning("the settings were not fetched: %s", problem)
                await trio.sleep(attempts.failed(FETCHES, 0.5))
                continue
            if is_wanted:
                answered, differs_since = wanted, None
                attempts.succeeded()
                continue
            # The controller writes the ConfigMap first, so for some seconds it may be newer than the Member.
            differs_since = trio.current_time() if differs_since is None else differs_since
            if trio.current_time() - differs_since >= DIFFERS:
                self._report_settings(f"ConfigMap {settings_name(self.record.group)} {NOT_THE_CONTROLLERS}")
            with trio.move_on_after(attempts.failed(FETCHES, 0.5)):
                await self._wait_for_settings(wanted)

    async def _wait_for_settings(self, answered: str | None) -> str:
        view = await self.view.wait_for(
            lambda view: (
                view is not None and view.settings is not None and view.settings not in (answered, self.settings_digest)
            )
        )
        assert view is not None and view.settings is not None
        return view.settings

    async def _fetch_settings(self, wanted: str) -> bool:
        """Fetch, store and publish the settings with this digest; False if there are others. Raises ClusterError.

        Unusable settings are reported, and ours stay in use.
        """
        with self._tracking_auth():
            found = await self._cluster.send(get(CONFIG_MAPS, self.record.namespace, settings_name(self.record.group)))
        text = str((found.get("data") or {}).get(SETTINGS_KEY, ""))
        if digest(text) != wanted:
            return False
        try:
            settings = parse_settings(text)
            files.store_settings(self._state, text)
        except (ValueError, ExclaveError) as problem:
            self._report_settings(str(problem))
            return True
        self.problem.set(None)
        self.settings_digest = digest(text)
        self.settings.set(settings)
        log.info("settings %s", (self.settings_digest or "")[:12])
        return True

    def _report_settings(self, problem: str) -> None:
        whole = f"new settings cannot be used, the last good ones stay in use: {problem}"
        if self.problem.value != whole:
            self.problem.set(whole)
            log.error("%s", whole)

    async def send_heartbeats(self) -> None:
        """Send heartbeats until cancelled."""
        failing, refused = False, 0
        while True:
            found = self.found.value
            try:
                await self.send_heartbeat()
                failing, refused = False, 0
                self.silence.set(None)
            except ClusterError as problem:
                if self.found.value != found:
                    continue  # the request was sent from an address that is gone
                if not failing:
                    log.warning("the heartbeat failed and is sent again: %s", problem)
                failing = True
                # An API server that is away tells the controller nothing either. An orphan is reported as such.
                refused += isinstance(problem, ApiRefusal) and problem.status != 401
                if refused >= MISSED:
                    self.silence.set(f"the cluster refuses this machine's heartbeats: {problem.message}")
            settings = self.settings.value
            pause = settings.heartbeat if settings else HEARTBEAT
            await trio.sleep(ASK_ORPHAN_EVERY if self.standing.value is Standing.ORPHANED else pause)

    async def send_heartbeat(self) -> None:
        """Send one heartbeat. Raises ClusterError."""
        with self._tracking_auth():
            await self._cluster.send(
                heartbeat_request(self.record.namespace, self.record.member, self._holder, self._now())
            )
        self._heartbeat_at = self._now()

    async def describe_machine(self, zone: str | None) -> None:
        """Patch the facts in the Member once, if they differ."""
        facts = await read_facts(zone)
        view = await self.view.wait_for(lambda view: view is not None)
        assert view is not None
        changes: dict[str, Any] = {}
        if view.facts != facts:
            changes["facts"] = {name: facts.get(name) for name in sorted({*view.facts, *facts})}
        await self.patch_spec(changes)

    async def follow_address(self, override: str | None) -> NoReturn:
        """Publish this machine's address in `found` until cancelled."""
        while True:
            last = self.found.value or self.record.address
            found = await addresses.wait_for_move(self._cluster.server_addresses, override, last)
            if last not in addresses.on_this_machine({last}):
                self._cluster.drop_connections()
            self.found.set(found.address)

    async def follow_left(self) -> NoReturn:
        """Drop the connections to the cluster when this machine loses an address, until cancelled."""
        before: frozenset[str] = frozenset()
        while True:
            now = addresses.on_this_machine(before | {self.found.value})
            if before - now:
                self._cluster.drop_connections()
            before = now
            await trio.sleep(addresses.POLL_INTERVAL)

    async def close(self, ending: Ending, remember: Callable[[], None]) -> None:
        """Undo what the ending requires. An evicted member writes nothing to the cluster."""
        evicted = self.standing.value is Standing.EVICTED
        with shielded(CLOSE_TIMEOUT):
            try:
                if ending is Ending.STOP and not evicted:
                    await self.send_heartbeat()
                elif ending is Ending.LEAVE and not evicted:
                    await self._delete_member()
            except ClusterError as problem:
                log.warning("%s", problem)
        if ending is Ending.LEAVE:
            if evicted:
                remember()
            files.forget_membership(self._state)

    async def _delete_member(self) -> None:
        remaining = f"Member {self.record.namespace}/{self.record.member}"
        self.remains.append(remaining)
        try:
            await self._cluster.send_patiently(delete(MEMBERS, self.record.namespace, self.record.member))
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
        self.remains.remove(remaining)
        log_milestone(Leaving.DELETED)


@asynccontextmanager
async def open_member(
    record: MembershipRecord, config: Config, cluster: MemberCluster, endings: EndingSwitch, now: Now
) -> AsyncIterator[MemberClient]:
    """The client of this member while open. Needs no network to open. Raises HostError."""
    found = addresses.find_address(cluster.server_addresses.value, config.member.address, record.address)
    if found is not None:
        log.info("%s", found)
    else:
        log.warning("address: [chosen=%s why=no route now, the last one is kept]", record.address or "none")
    holder = await read_boot_identity(config.paths.runtime)
    where = found.address if found is not None else ""
    also_captured = config.member.captured_addresses
    membership = MemberClient(record, config.paths.state, cluster, also_captured, where, holder, now)
    membership.set_served_addresses(addresses.first_served(record, where))
    async with open_bare_nursery() as nursery:
        for name, part in (
            ("member", membership.follow),
            ("settings", membership.follow_settings),
            ("heartbeat", membership.send_heartbeats),
            ("facts", partial(membership.describe_machine, config.member.zone)),
            ("address", partial(membership.follow_address, config.member.address)),
            ("addresses left", membership.follow_left),
        ):
            nursery.start_soon(supervise, name, part)
        try:
            yield membership
        finally:
            nursery.cancel_scope.cancel()
            remember = partial(files.store_eviction, config.paths.state, membership.record, now())
            await membership.close(endings.value, remember)
            if endings.value is Ending.LEAVE:
                forget_boot_identity(config.paths.runtime)
