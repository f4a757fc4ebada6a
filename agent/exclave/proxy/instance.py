"""Adopts or starts an instance of the proxy, restarts it when it ends, and ends all instances at leave.

Traffic goes to the chosen instance; during a swap a second one runs. All of them outlive a hand-over.
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
from exclave.kit.host.accepting import SHORTAGE_HINT, SHORTAGES
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.wall_clock import Now
from exclave.link.layout import Family, Instance
from exclave.member.client import MemberClient
from exclave.milestones import Withdrawing, log_milestone
from exclave.proxy.probe import fetch_metrics, open_admin_client
from exclave.proxy.process.binary import BinaryWatch, find_proxy_user, stamp_of
from exclave.proxy.process.held import InstanceProcess
from exclave.proxy.process.launcher import ProxyLauncher, choose_slot
from exclave.proxy.process.records import InstanceRecord
from exclave.proxy.process.units import open_units
from exclave.proxy.published import InstanceView, PublishedProxy
from exclave.proxy.running import KILL_DELAY, RunningProxy
from exclave.proxy.states import InstanceEvent, InstanceState, differences, transition

log = logging.getLogger(__name__)

COMPARE_INTERVAL = 5.0  # seconds between two comparisons with the binary on disk and the memory limit

SETTLED = 10.0  # seconds of a run after which its end counts as the first one
AT_ONCE = 3  # ends in a row after which the proxy is started again without a pause: until then connections fail
RESTARTS = Backoff(first=1.0, most=60.0, jitter=0.0)  # the pauses after that; no jitter: one machine only

KILL_TIME = 10.0  # seconds for a process to end after SIGKILL


class Restarts:
    """The pauses before the proxy is started again."""

    def __init__(self) -> None:
        self._ends = 0
        self._attempts = Attempts()

    def pause(self, ran_for: float) -> float:
        """Seconds to wait after an end, or a failed start, that ended a run of `ran_for` seconds."""
        if ran_for > SETTLED:
            self._ends = 0
            self._attempts.succeeded()
        self._ends += 1
        return 0.0 if self._ends <= AT_ONCE else self._attempts.failed(RESTARTS, 0.0)


class Proxy(PublishedProxy):
    """The proxy's instances. Made by `open_proxy`."""

    def __init__(self, nursery: trio.Nursery, launcher: ProxyLauncher, svid: Latest[Svid | None], now: Now) -> None:
        super().__init__(launcher.user)
        self._nursery = nursery
        self._launcher = launcher
        self._config = launcher.config
        self._runtime = launcher.runtime
        self._membership = launcher.membership
        self._svid = svid
        self._now = now
        self._binary_watch = BinaryWatch(launcher.config.binary)
        self._running: dict[Instance, RunningProxy] = {}
        self._starting = trio.Lock()
        self._checked: str | None = None  # the stamp of the binary that was accepted or adopted last

    def dismiss(self, instance: Instance) -> None:
        """End an instance; it may run for `drain` more seconds."""
        if instance in self._running:
            self._running[instance].dismiss()

    def retire(self, instance: Instance) -> None:
        """Mark an instance as draining: another one serves in its place."""
        if instance in self._running:
            self.apply_event(instance, InstanceEvent.RETIRED)

    def has_settings(self, settings: Settings) -> bool:
        """True if the chosen instance runs with these settings and with the addresses that this machine serves now."""
        chosen = self.chosen.value
        if chosen is None or chosen not in self.instances.value:
            return False
        return self.instances.value[chosen].environment == self._launcher.wanted_digest(settings, chosen)

    def families(self, instance: Instance) -> tuple[Family, ...]:
        """The address families for which an instance accepts outbound traffic."""
        return self._launcher.find_families(instance)

    async def read_metrics(self, instance: Instance) -> str | None:
        """The metrics page of an instance; None if it does not answer or a policy denies the page."""
        async with open_admin_client(instance) as client:
            try:
                return await fetch_metrics(client)
            except httpx.HTTPError:
                return None

    # Adopting and starting

    async def adopt(self, active: Instance | None) -> bool:
        """Adopt the instances of an earlier agent, and choose one; False if there is none.

        `active`, the instance that the kernel's rules point to, is chosen if it runs.
        """
        found = await self._launcher.find_running()
        if not found:
            return False
        chosen = active if active in found else min(found)
        self.chosen.set(chosen)
        binary = found[chosen][0].program
        self._checked = binary.stamp if binary is not None else None
        self._launcher.identity = binary
        for instance, (record, process) in found.items():
            self._add(instance, process, record, InstanceEvent.ADOPTED)
            log.info("proxy %s: adopted process %d", instance, record.pid)
        return True

    async def check(self) -> None:
        """Check that the binary can be run. Raises HostError."""
        stamp = _stamp(self._config.binary)
        self.version = await self._launcher.check()
        self._checked = stamp

    async def _check_before_start(self) -> None:
        """Check the binary, unless `check` has accepted this file. Raises HostError."""
        # Connections fail until a proxy that has ended is there again, and a check takes as long as its start.
        if self._checked is None or self._checked != _stamp(self._config.binary):
            await self.check()

    async def start(self, preferred: Instance | None = None) -> Instance:
        """Start an instance in a free slot, with the newest settings and binary. Raises HostError."""
        async with self._starting:  # two concurrent launches could choose the same slot
            await self._check_before_start()
            await self._launcher.end_others(self._running)
            settings = self._membership.settings.value
            assert settings is not None  # settings are replaced, never withdrawn
            instance = choose_slot(self._running, preferred)
            process, record = await self._launcher.launch(instance, settings, self.version)
            self.starts[instance] += 1
            self._add(instance, process, record, InstanceEvent.STARTED)
        log.info("proxy %s: started process %d", instance, process.pid)
        return instance

    def _add(self, instance: Instance, process: InstanceProcess, record: InstanceRecord, event: InstanceEvent) -> None:
        settings = self._membership.settings.value
        server_name = settings.server_name if settings is not None else ""
        running = RunningProxy(self, instance, process, self._runtime, server_name, self._config.drain)
        self._running[instance] = running
        view = InstanceView(
            transition(InstanceState.ABSENT, event).state,
            process.pid,
            record.environment,
            record.program,
            is_adopted=event is InstanceEvent.ADOPTED,
            anchors=record.anchors,
            version=record.version,
        )
        self.change(instance, view)
        self._nursery.start_soon(self._supervise, running)

    async def _supervise(self, running: RunningProxy) -> None:
        message = await running.supervise(self._svid, self._now)
        was_chosen = running.instance == self.chosen.value
        self.exit_messages[running.instance] = message
        self._release(running)
        others = [name for name, view in self.instances.value.items() if view.can_serve]
        if was_chosen and not others:
            self.report_problem(message)
            return
        log.log(logging.WARNING if was_chosen else logging.INFO, "%s", message)
        if was_chosen:
            self.choose(others[0])

    def _release(self, running: RunningProxy) -> None:
        running.process.close()
        del self._running[running.instance]
        try:
            self._launcher.records.drop(running.instance)
        except HostError as problem:  # a record without a process does no harm
            log.warning("proxy %s: %s", running.instance, problem)
        self.apply_event(running.instance, InstanceEvent.EXITED)

    # While they run

    async def run(self) -> NoReturn:
        """Start the chosen instance, and restart it when it has ended, until cancelled."""
        restarts = Restarts()
        while True:
            began = trio.current_time()
            try:
                if self.chosen.value not in self._running:
                    await self._wait_for("settings", self._membership.settings)
                    await self._wait_for("a certificate", self._svid)
                    # The kernel's rules still point to the slot of one that has ended.
                    self.choose(await self.start(self.chosen.value))
                    began = trio.current_time()
                await self.instances.wait_for(lambda views: self.chosen.value not in views)
            except HostError as problem:
                self.report_problem(f"{problem.message} ({problem.hint})")
            except OSError as problem:
                if problem.errno not in SHORTAGES:
                    raise
                self.report_problem(f"the proxy cannot be started now: {problem.strerror} ({SHORTAGE_HINT})")
            await trio.sleep(restarts.pause(trio.current_time() - began))

    async def _wait_for(self, what: str, source: Latest[Any]) -> None:
        if source.value is None:
            self.problem.set(f"no proxy yet: waiting for {what}")
            await source.wait_for(lambda value: value is not None)
            self.problem.set(None)

    async def watch_differences(self) -> NoReturn:
        """Publish how the chosen instance differs from the wanted one, until cancelled."""
        sources = (self._membership.settings, self._membership.captured, self.chosen, self.instances)
        async with open_any_change(*sources) as change:
            while True:
                try:
                    await self._compare()
                except OSError as problem:
                    if problem.errno not in SHORTAGES:
                        raise
                    log.warning("proxy: it is not compared with what is wanted: %s", problem.strerror)
                await change.wait(COMPARE_INTERVAL)

    async def _compare(self) -> None:
        chosen, settings = self.chosen.value, self._membership.settings.value
        view = self.instances.value.get(chosen) if chosen is not None else None
        if chosen is None or view is None or settings is None:
            self.outdated.set(frozenset())
            return
        on_disk = await self._binary_watch.poll(view.binary)
        if self.chosen.value != chosen:
            return  # another one was chosen in the meantime; that change starts the next comparison
        found = differences(
            (view.environment, view.binary.digest if view.binary else None),
            (self._launcher.wanted_digest(settings, chosen), on_disk.digest if on_disk else None),
            _resident_memory(view.pid),
            self._config.memory_limit,
        )
        self.outdated.set(found)

    # Ending

    async def end(self, *, remove_files: bool) -> None:
        """End every instance, by SIGKILL after `drain` seconds. `remove_files` removes their files too."""
        async with open_bare_nursery() as nursery:
            for running in list(self._running.values()):
                nursery.start_soon(self._end_one, running)
        await self._launcher.stop_units()
        if remove_files:
            self._launcher.remove_files()

    async def _end_one(self, running: RunningProxy) -> None:
        await running.end()
        self._release(running)
        log_milestone(Withdrawing.ENDED)
        log.info("proxy %s: ended", running.instance)

    def leave_running(self) -> None:
        """Close the agent's handles; the processes continue."""
        for running in self._running.values():
            running.process.close()
        self._running.clear()


def _stamp(binary: Path) -> str | None:
    try:
        return stamp_of(binary)
    except OSError:  # the check reports it
        return None


def _resident_memory(pid: int) -> int | None:
    """Resident memory (RSS) in bytes; None if the process has ended."""
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
    """Run a proxy while open. On hand-over its instances continue; on any other ending they are ended.

    `socket`: the Workload API's; `dns_address`: the DNS stub's; `active`: the instance that the kernel's rules point
    to. Raises HostError if there is nothing to adopt, and the binary or its user is unusable.
    """
    user = await find_proxy_user(config.user)
    launcher = ProxyLauncher(config, user, runtime, membership, socket, await open_units(runtime, config, user))
    launcher.write_files(dns_address)
    proxy: Proxy | None = None
    try:
        async with open_bare_nursery() as nursery:
            proxy = Proxy(nursery, launcher, identity.svid, now)
            if not await proxy.adopt(active):
                await proxy.check()
            nursery.start_soon(proxy.run)
            nursery.start_soon(proxy.watch_differences)
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()
    finally:
        if proxy is not None and endings.value is Ending.HAND_OVER:
            proxy.leave_running()
        elif proxy is not None:
            with shielded(config.drain + KILL_DELAY + KILL_TIME) as scope:
                await proxy.end(remove_files=endings.value is Ending.LEAVE)
            if scope.cancelled_caught:
                log.error(
                    "a proxy has not ended %g s after SIGKILL; its record stays, and exclave cleanup tries again",
                    KILL_TIME,
                )
                proxy.leave_running()
