"""The door to the proxy: one instance serves, another may stand by it; both outlive the agent that hands over.

Rules: what an earlier agent left is adopted before anything is started: every record must match in all, else its
process is neither used nor ended, and another place is taken. The chosen one of several is the one that the kernel's
rules point to. The chosen one is started once there are settings and a certificate, and started again with growing
pauses, for ever, when it ends, in its own last words; if another runs that can serve, that one is chosen at once
instead. What is not chosen is never started again. On leave and stop all are told to end and given `drain` seconds,
then killed; on hand over they are left as they are.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import trio

from exclave.api.settings import Settings
from exclave.config import ProxyConfig
from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave.identity.rotator import Identity
from exclave.identity.svid import Svid
from exclave.kit.host.gated import HeldProcess
from exclave.kit.tasks.any_change import open_any_change
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import INSTANCES, Family, Instance
from exclave.member.client import MemberClient
from exclave.milestones import Withdrawing, tell
from exclave.proxy.differences import differences
from exclave.proxy.probe import fetch_metrics, open_admin_client
from exclave.proxy.process.binary import find_user
from exclave.proxy.process.binary_id import BinaryWatch
from exclave.proxy.process.instances import InstanceRecord
from exclave.proxy.process.launcher import ProxyLauncher
from exclave.proxy.process.logfile import remove_output
from exclave.proxy.process.slot import choose_slot, find_families
from exclave.proxy.published import InstanceView, PublishedProxy
from exclave.proxy.restarts import Restarts
from exclave.proxy.running import RunningProxy
from exclave.proxy.states import Event, State, transition

log = logging.getLogger(__name__)

COMPARE_INTERVAL = 5.0
"""Seconds between looks at the binary on disk and at the memory of what runs."""

EXEC_TIME = 2.0
"""Seconds for a child that an agent left at its gate to become a proxy, or to go."""


class Proxy(PublishedProxy):
    """The proxy's instances: values to read, and verbs. Made by `open_proxy`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        launcher: ProxyLauncher,
        config: ProxyConfig,
        runtime: Path,
        membership: MemberClient,
        svid: Latest[Svid | None],
        now: Now,
    ) -> None:
        super().__init__(find_user(config.user))
        self._nursery = nursery
        self._launcher = launcher
        self._config = config
        self._runtime = runtime
        self._membership = membership
        self._svid = svid
        self._now = now
        self._binary_watch = BinaryWatch(config.binary)
        self._running: dict[Instance, RunningProxy] = {}
        self._starting = trio.Lock()

    # Verbs of others.

    async def start_standby(self) -> Instance:
        """Start another instance beside the chosen one, with the newest settings and binary. Raises HostError."""
        return await self._start()

    def dismiss(self, instance: Instance) -> None:
        """Have an instance end; its own patience and ours bound that."""
        if instance in self._running:
            self._running[instance].dismiss()

    def retire(self, instance: Instance) -> None:
        """Another serves in an instance's place: it only serves what it has."""
        if instance in self._running:
            self.step(instance, Event.RETIRED)

    def has_settings(self, settings: Settings) -> bool:
        """Whether the chosen instance was told what these settings say, and the addresses that are to be served."""
        chosen = self.chosen.value
        if chosen is None or chosen not in self.instances.value:
            return False
        return self.instances.value[chosen].environment == self._launcher.wanted_digest(settings, chosen)

    def families(self, instance: Instance) -> tuple[Family, ...]:
        """The address families that an instance takes outbound traffic of."""
        return find_families(instance)

    async def read_metrics(self, instance: Instance) -> str | None:
        """The metrics page of an instance; None if it does not answer, or if a policy denies the page."""
        async with open_admin_client(instance) as client:
            try:
                return await fetch_metrics(client)
            except httpx.HTTPError:
                return None

    # Coming to hold processes.

    async def adopt(self, active: Instance | None) -> bool:
        """Hold what an earlier agent has left, and choose one; False if there is nothing of ours."""
        with trio.move_on_after(EXEC_TIME):
            while self._launcher.records.has_starting_child():  # noqa: ASYNC110  an exec is no event
                await trio.sleep(0.02)
        found = self._launcher.records.find_ours()
        if not found:
            return False
        self.chosen.set(active if active in found else min(found))
        for instance, (record, process) in found.items():
            self._hold(instance, process, record, Event.ADOPTED)
            log.info("proxy %s: adopted process %d", instance, record.pid)
        return True

    async def check(self) -> None:
        """Find out whether the binary can be run. Raises HostError."""
        self.version = await self._launcher.check()

    async def _start(self) -> Instance:
        """Launch an instance in a free place. Raises HostError."""
        async with self._starting:  # else two could take the same place
            await self.check()
            settings = self._membership.settings.value
            assert settings is not None  # settings are replaced, never withdrawn
            instance = choose_slot(self._running)
            process, record = await self._launcher.make(instance, settings)
            self.starts[instance] += 1
            self._hold(instance, process, record, Event.STARTED)
        log.info("proxy %s: started process %d", instance, process.pid)
        return instance

    def _hold(self, instance: Instance, process: HeldProcess, record: InstanceRecord, event: Event) -> None:
        settings = self._membership.settings.value
        server_name = settings.server_name if settings is not None else ""
        held = RunningProxy(self, instance, process, self._runtime, server_name, self._config.drain)
        self._running[instance] = held
        view = InstanceView(
            transition(State.ABSENT, event).state,
            process.pid,
            record.environment,
            record.program,
            is_adopted=event is Event.ADOPTED,
        )
        self.change(instance, view)
        self._nursery.start_soon(self._attend, held)

    async def _attend(self, held: RunningProxy) -> None:
        words = await held.supervise(self._svid, self._now)
        was_chosen = held.instance == self.chosen.value
        self.exit_messages[held.instance] = words
        self._release(held)
        others = [known for known, view in self.instances.value.items() if view.can_serve]
        if was_chosen and not others:
            self.tell(words)
            return
        log.log(logging.WARNING if was_chosen else logging.INFO, "%s", words)
        if was_chosen:
            self.choose(others[0])

    def _release(self, held: RunningProxy) -> None:
        held.process.close()
        del self._running[held.instance]
        self._launcher.records.drop(held.instance)
        self.step(held.instance, Event.EXITED)

    # While they run.

    async def keep(self) -> NoReturn:
        """Have the chosen instance run, for ever."""
        restarts = Restarts()
        while True:
            began = trio.current_time()
            try:
                if self.chosen.value not in self._running:
                    await self._wait_for("settings", self._membership.settings)
                    await self._wait_for("a certificate", self._svid)
                    self.choose(await self._start())
                    began = trio.current_time()
                await self.instances.wait_for(lambda views: self.chosen.value not in views)
            except HostError as problem:
                self.tell(f"{problem.message} ({problem.hint})")
            restarts, pause = restarts.after(trio.current_time() - began)
            await trio.sleep(pause)

    async def _wait_for(self, what: str, source: Latest[Any]) -> None:
        if source.value is None:
            self.problem.set(f"no proxy yet: it waits for {what}")
            await source.wait_for(lambda value: value is not None)
            self.problem.set(None)

    async def compare(self) -> NoReturn:
        """Keep `outdated` true, for ever."""
        sources = (self._membership.settings, self._membership.captured, self.chosen, self.instances)
        async with open_any_change(*sources) as change:
            while True:
                await self._compare()
                await change.wait(COMPARE_INTERVAL)

    async def _compare(self) -> None:
        chosen, settings = self.chosen.value, self._membership.settings.value
        view = self.instances.value.get(chosen) if chosen is not None else None
        if chosen is None or view is None or settings is None:
            self.outdated.set(frozenset())
            return
        on_disk = await self._binary_watch.poll(view.program)
        if self.chosen.value != chosen:
            return  # another was chosen meanwhile, and is looked at next
        found = differences(
            (view.environment, view.program.digest if view.program else None),
            (self._launcher.wanted_digest(settings, chosen), on_disk.digest if on_disk else None),
            _resident_memory(view.pid),
            self._config.memory_limit,
        )
        self.outdated.set(found)

    # Ending them.

    async def end(self, *, forget: bool) -> None:
        """End every instance, within the bound; on `forget` leave no file behind."""
        async with open_bare_nursery() as nursery:
            for held in list(self._running.values()):
                nursery.start_soon(self._end_one, held)
        if forget:
            for instance in INSTANCES:
                remove_output(self._runtime, instance)
            self._launcher.remove_resolv_conf()

    async def _end_one(self, held: RunningProxy) -> None:
        await held.end()
        self._release(held)
        tell(Withdrawing.ENDED)
        log.info("proxy %s: ended", held.instance)

    def leave_running(self) -> None:
        """Let go of the processes without ending them."""
        for held in self._running.values():
            held.process.close()
        self._running.clear()


def _resident_memory(pid: int) -> int | None:
    """Bytes of memory that a process holds (RSS); None if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


@asynccontextmanager
async def open_proxy(
    config: ProxyConfig,
    runtime: Path,
    membership: MemberClient,
    identity: Identity,
    socket: Path,
    dns_address: str,
    active: Instance | None,
    endings: EndingSwitch,
    now: Now,
) -> AsyncIterator[Proxy]:
    """Have a proxy while open.

    `socket` is the Workload API's, `dns_address` where its names are answered, `active` where the kernel's rules point
    to. Raises HostError if there is nothing to adopt and the binary or its user cannot be used.
    """
    launcher = ProxyLauncher(config, find_user(config.user), runtime, membership, socket)
    launcher.write_resolv_conf(dns_address)
    proxy: Proxy | None = None
    try:
        async with open_bare_nursery() as nursery:
            proxy = Proxy(nursery, launcher, config, runtime, membership, identity.svid, now)
            if not await proxy.adopt(active):
                await proxy.check()
            nursery.start_soon(proxy.keep)
            nursery.start_soon(proxy.compare)
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()
    finally:
        if proxy is not None and endings.value is Ending.HAND_OVER:
            proxy.leave_running()
        elif proxy is not None:
            with trio.CancelScope(shield=True):
                await proxy.end(forget=endings.value is Ending.LEAVE)
