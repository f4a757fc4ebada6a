"""The door to the proxy: one instance runs, is looked after, and outlives the agent that hands over.

Rules: an instance that an earlier agent left is adopted before any is started; its record must match in all, else it
is neither used nor ended, and the other place is taken. An instance starts once there are settings and a certificate.
One that ends is started again with growing pauses, for ever; why it ended is told in its own last words. On leave and
stop it is told to end and given `drain` seconds, then killed; on hand over it is left as it is.
"""

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from exclave.config import ProxyConfig
from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.identity.svid import Svid
from exclave.kit.changed import open_changed
from exclave.kit.latest import Latest
from exclave.kit.nursery import open_bare_nursery
from exclave.kit.wall import Now
from exclave.member.settings import Settings
from exclave.proxy.binary import ProxyUser, check_binary, find_user
from exclave.proxy.environment import environment_digest, proxy_environment
from exclave.proxy.launch import Program, ProxyProcess, launch
from exclave.proxy.output import forget_output, keep_bounded, last_line, output_path
from exclave.proxy.place import choose_place, find_families
from exclave.proxy.records import Records, find_executable
from exclave.proxy.restarts import Restarts
from exclave.proxy.states import Effect, Event, State, next_step
from exclave.proxy.watching import InstanceView, Proxy, Watcher
from exclave.redirect.layout import Instance

if TYPE_CHECKING:
    from exclave.identity import Identity
    from exclave.member.presence import Membership

log = logging.getLogger(__name__)

SPARE = 2.0
"""Seconds between the end of the proxy's own patience and ours."""


@dataclass(frozen=True)
class _Held:
    """The process of one instance."""

    instance: Instance
    process: ProxyProcess


class _Keeper:
    """Keeps one instance running, and ends it."""

    def __init__(
        self,
        proxy: Proxy,
        user: ProxyUser,
        config: ProxyConfig,
        runtime: Path,
        membership: "Membership",
        identity: "Identity",
        socket: Path,
        now: Now,
    ) -> None:
        self._proxy = proxy
        self._user = user
        self._config = config
        self._runtime = runtime
        self._membership = membership
        self._svid: Latest[Svid | None] = identity.svid
        self._socket = socket
        self._now = now
        self._records = Records(runtime)
        self._resolv_conf = runtime / "resolv.conf"
        self._held: _Held | None = None

    # Coming to hold a process.

    def write_names(self, dns_address: str) -> None:
        """Write the resolv.conf that instances see in place of the host's."""
        self._resolv_conf.write_text(f"nameserver {dns_address}\noptions ndots:0\n")
        self._resolv_conf.chmod(0o644)

    def adopt(self) -> bool:
        """Hold what an earlier agent has left; False if there is nothing of ours."""
        found = self._records.find_ours()
        if found is None:
            return False
        instance, record, pidfd = found
        self._hold(_Held(instance, ProxyProcess(record.pid, pidfd)), record.environment, Event.ADOPTED)
        log.info("proxy %s: adopted process %d", instance, record.pid)
        return True

    async def _start(self) -> None:
        """Launch an instance once there is something to tell it. Raises HostError."""
        await self._wait_for("settings", self._membership.settings)
        await self._wait_for("a certificate", self._svid)
        await self.check()
        settings = self._membership.settings.value
        assert settings is not None  # settings are replaced, never withdrawn
        instance = choose_place()
        environment = self._environment(settings, instance)
        program = Program(
            self._config.binary,
            self._user,
            environment,
            self._resolv_conf,
            output_path(self._runtime, instance),
        )
        executable, digest = find_executable(self._config.binary), environment_digest(environment)
        gated = launch(program)
        try:
            self._records.add(instance, gated.process.pid, executable, digest)
        except HostError:
            await gated.give_up()
            raise
        gated.open_gate()
        self._proxy.starts[instance] += 1
        self._hold(_Held(instance, gated.process), digest, Event.STARTED)
        log.info("proxy %s: started as process %d", instance, gated.process.pid)

    async def _wait_for(self, what: str, source: Latest[Any]) -> None:
        if source.value is None:
            self._proxy.problem.set(f"no proxy yet: it waits for {what}")
            await source.wait_for(lambda value: value is not None)
            self._proxy.problem.set(None)

    async def check(self) -> None:
        """Find out whether the binary can be run. Raises HostError."""
        self._proxy.version = await check_binary(self._config.binary, self._user)

    def _hold(self, held: _Held, environment: str, event: Event) -> None:
        self._held = held
        state = next_step(State.ABSENT, event).state
        view = InstanceView(state, held.process.pid, environment, is_adopted=event is Event.ADOPTED)
        self._proxy.change(held.instance, view)
        self._compare()

    def _environment(self, settings: Settings, instance: Instance) -> dict[str, str]:
        if not self._membership.addresses:
            raise HostError(
                Fault.PROXY_UNUSABLE,
                "this machine has no address to have in the mesh",
                "give it a route to the API server, or set its address in config.toml: [member] address",
            )
        return proxy_environment(
            settings,
            self._membership.record.member,
            self._membership.captured_addresses,
            instance,
            self._socket,
            self._config.log,
            drain=self._config.drain,
            families=find_families(instance),
        )

    # While it runs.

    async def keep(self) -> None:
        """Have an instance run, for ever."""
        restarts = Restarts()
        while True:
            began = trio.current_time()
            try:
                if self._held is None:
                    await self._start()
                    began = trio.current_time()
                await self._attend()
            except HostError as problem:
                self._proxy.tell(f"{problem.message} ({problem.hint})")
            restarts, pause = restarts.after(trio.current_time() - began)
            await trio.sleep(pause)

    async def _attend(self) -> None:
        """Look after the process until it has ended, whoever ended it."""
        held = self._held
        assert held is not None
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._watch, held)
            nursery.start_soon(keep_bounded, output_path(self._runtime, held.instance))
            status = await held.process.wait()
            nursery.cancel_scope.cancel()
        self._let_go(held)
        words = last_line(output_path(self._runtime, held.instance))
        self._proxy.tell(f"proxy {held.instance} {describe_end(status)}{f': {words}' if words else ''}")

    async def _watch(self, held: _Held) -> None:
        watcher = Watcher(self._proxy, held.instance, self._svid, self._now)
        await self._do(held, await watcher.watch())

    async def compare(self) -> None:
        """Keep `outdated` true, for ever."""
        async with open_changed(self._membership.settings) as changed:
            async for _ in changed.changes():
                self._compare()

    def _compare(self) -> None:
        settings, held = self._membership.settings.value, self._held
        if settings is None or held is None or not self._membership.addresses:
            self._proxy.outdated.set(False)
            return
        wanted = environment_digest(self._environment(settings, held.instance))
        self._proxy.outdated.set(wanted != self._proxy.instances.value[held.instance].environment)

    # Ending it.

    async def end(self, *, forget: bool) -> None:
        """End the instance, within the bound; on `forget` leave no file behind."""
        held = self._held
        if held is not None:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(self._do, held, self._proxy.step(held.instance, Event.DISMISSED))
                await held.process.wait()
                nursery.cancel_scope.cancel()
            self._let_go(held)
            log.info("proxy %s: ended", held.instance)
            if forget:
                forget_output(self._runtime, held.instance)
        if forget:
            self._resolv_conf.unlink(missing_ok=True)

    def leave_running(self) -> None:
        """Let go of the process without ending it."""
        if self._held is not None:
            self._held.process.close()
            self._held = None

    async def _do(self, held: _Held, effects: tuple[Effect, ...]) -> None:
        """Carry out effects; returns when the process has been killed, if it has not ended before."""
        for effect in effects:
            if effect is Effect.KILL:
                log.warning("proxy %s: did not end within %g s, so it is killed", held.instance, self._config.drain)
                held.process.send(signal.SIGKILL)
            elif effect is Effect.TERMINATE:
                held.process.send(signal.SIGTERM)
                await trio.sleep(self._config.drain + SPARE)
                await self._do(held, self._proxy.step(held.instance, Event.BOUND_REACHED))

    def _let_go(self, held: _Held) -> None:
        held.process.close()
        self._held = None
        self._proxy.step(held.instance, Event.EXITED)
        self._proxy.ready.set(None)
        self._records.drop(held.instance)


def describe_end(status: int | None) -> str:
    """How a process ended: `status` is its exit status, negative for a signal, None if nobody can know."""
    if status is None:
        return "ended (an earlier agent's child: nobody can know how)"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


@asynccontextmanager
async def open_proxy(
    config: ProxyConfig,
    runtime: Path,
    membership: "Membership",
    identity: "Identity",
    socket: Path,
    dns_address: str,
    endings: EndingSwitch,
    now: Now,
) -> AsyncIterator[Proxy]:
    """Have a proxy while open. `socket` is the Workload API's, `dns_address` where its names are answered.

    Raises HostError if there is nothing to adopt and the binary or its user cannot be used.
    """
    user = find_user(config.user)
    proxy = Proxy(user)
    keeper = _Keeper(proxy, user, config, runtime, membership, identity, socket, now)
    keeper.write_names(dns_address)
    if not keeper.adopt():
        await keeper.check()
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(keeper.keep)
            nursery.start_soon(keeper.compare)
            try:
                yield proxy
            finally:
                nursery.cancel_scope.cancel()
    finally:
        if endings.value is Ending.HAND_OVER:
            keeper.leave_running()
        else:
            with trio.CancelScope(shield=True):
                await keeper.end(forget=endings.value is Ending.LEAVE)
