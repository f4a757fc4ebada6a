"""The agent's process: idle while this machine is no member, else one boot after another until the process ends.

One agent runs at a time (`agent.lock`). The control socket answers in every state.
"""

import logging
import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any

import trio

from exclave import __version__
from exclave.config import Config
from exclave.confirm.confirm import Unconfirmed, forget_unconfirmed, store_unconfirmed
from exclave.control.server import SendReply, open_control
from exclave.daemon.boot import serve
from exclave.daemon.parts import (
    Parts,
    is_redirected,
    log_fields_of,
    problems_of,
    sections_of,
    situation_of,
    sources_of,
    waits_of,
)
from exclave.daemon.runtime_folder import RuntimeFolder
from exclave.daemon.status import QUIET, FirstObserved, build_status, status_line
from exclave.daemon.teardown import depart, forget_everything, forget_remnants
from exclave.ending import Ending, EndingSwitch
from exclave.errors import MAY_HEAL, ExclaveError, Fault, HostError, error_object
from exclave.identity.rotator import Identity, TooSoonError
from exclave.kit.formats.times import rfc3339
from exclave.kit.host.files import hold_lock, make_folder
from exclave.kit.systemd.sd_notify import notify, reloading, status, stopping
from exclave.kit.systemd.service_job import read_own_job
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.signals import ENDING_SIGNALS, raise_recorded
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now
from exclave.member.record import MembershipRecord, load_eviction, load_join, load_membership
from exclave.member.state import State, state_of
from exclave.swap.swap import Swap

log = logging.getLogger(__name__)

CheckHost = Callable[[], Awaitable[list[str]]]
"""Raises HostError if this host cannot be a member; returns warnings."""

HOST_RETRIES = Backoff(first=1.0, most=10.0, jitter=0.0)
"""Pauses of a member's agent between two attempts on a host that cannot be a member. They are short because the unit is
active meanwhile: after the repair, `systemctl start` changes nothing."""

_SEE_STATUS = "exclave status prints what the agent waits for"

SETTLED = 60.0  # seconds of a boot after which a failure counts as the first one

FAST_POLL_INTERVAL = 0.25  # seconds between two polls while a boot opens or ends: a person waits for `ready`

POLL_INTERVAL = 5.0  # seconds between two polls otherwise: a wait turns long, or a join could not notify this agent

REPORT_INTERVAL = 2.0  # seconds between two reports to a client that waits

STOP_TIME = 240.0  # seconds in which a stop ends, without its two drains; each of its steps has a limit of its own


class Agent:
    """The state of this process, and the answers to commands."""

    def __init__(
        self,
        config: Config,
        now: Now,
        watchdog: float = inf,
        log_fields: MutableMapping[str, str] | None = None,
        check: CheckHost | None = None,
        *,
        waits_for_host: bool = False,
    ) -> None:
        self.state: Latest[State] = Latest(State.UNJOINED)
        self.ending: Latest[Ending | None] = Latest(None)  # how the process ends; None while it runs
        self.runs_again = False  # the process executes its program again after this ending
        self._config = config
        self._now = now
        self._parts: Parts | None = None
        self._joined = trio.Event()
        self._is_leaving = False  # a leave was requested; done even if the boot closes for another reason
        self._check = check
        self._waits_for_host = waits_for_host
        self._host_attempts = Attempts(settled=SETTLED)
        self._host_error: str | None = None  # as it was logged
        # What the last leave could not undo, or why it has not succeeded yet.
        self._remains: Latest[list[str] | HostError | None] = Latest(None)
        self._since = now()
        self._waits, self._problems = FirstObserved(), FirstObserved()
        self._logged_waits: set[str] = set()
        self._watchdog = watchdog  # seconds
        self._log_fields = log_fields if log_fields is not None else {}
        self._is_ready = False  # systemd was notified
        self._status_line = ""  # as systemd has it

    async def run(self) -> None:
        """Boot whenever this machine is a member, until the process has to end."""
        forget_remnants(self._config.paths)
        has_served = False
        # A stop that comes before the first boot must undo what an earlier agent left in place: the boot adopts that.
        while self.ending.value is None or (self.ending.value is Ending.STOP and not has_served):
            record = load_membership(self._config.paths.state)
            if record is not None:
                has_served = True
                await self._be_member(record)
            elif self.ending.value is None:
                self._is_leaving = False
                await self._idle()
            else:
                return

    async def _be_member(self, record: MembershipRecord) -> None:
        """Serve or depart. On a host that cannot be a member now, wait before the next attempt."""
        began = trio.current_time()
        try:
            if record.leaving or self._is_leaving:  # also after a crash: a leave is always completed
                await self._depart(record)
            else:
                await self._serve(record)
        except HostError as error:
            if not self._waits_for_host or error.fault not in MAY_HEAL:
                raise
            ran_for = trio.current_time() - began
            if ran_for > SETTLED:
                self._host_error = None
            pause = self._host_attempts.failed(HOST_RETRIES, 0.0, ran_for=ran_for)
            await self._wait_for_host(record, error, pause)

    async def _wait_for_host(self, record: MembershipRecord, error: HostError, pause: float) -> None:
        if error.message != self._host_error:
            self._host_error = error.message
            log.error("%s; to do: %s (it is tried again every %.0f s)", error, error.hint, HOST_RETRIES.most)
        self._notify_ready()
        if self._is_leaving:
            self._remains.set(error)
        if self.ending.value is not None:
            return
        self._parts = parts = Parts(EndingSwitch(), record, host_error=error)
        try:
            with trio.move_on_after(pause):
                await parts.endings.wait()
        finally:
            self._parts = None

    def _notify_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            notify("READY=1")

    async def _idle(self) -> None:
        self._notify_ready()
        if self._joined.is_set():
            self._joined = trio.Event()
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._cancel_when_ending, nursery.cancel_scope)
            with trio.move_on_after(POLL_INTERVAL):
                await self._joined.wait()
            nursery.cancel_scope.cancel()

    async def _cancel_when_ending(self, scope: trio.CancelScope) -> None:
        await self.ending.wait_for(lambda ending: ending is not None)
        scope.cancel()

    async def _serve(self, record: MembershipRecord) -> None:
        endings = EndingSwitch()
        self._parts = parts = Parts(endings, record)
        if self.ending.value is not None:
            endings.ask_nowait(self.ending.value)
        try:
            for warning in await self._check() if self._check is not None else ():
                log.warning("%s", warning)
            await serve(parts, self._config, self._now)
        finally:
            self._parts = None
        if load_membership(self._config.paths.state) is None:
            self._remains.set(parts.membership.remains if parts.membership else [])

    async def _depart(self, record: MembershipRecord) -> None:
        self._parts = Parts(EndingSwitch(), record, Ending.LEAVE)
        try:
            self._remains.set(await depart(record, self._config, self._now))
        finally:
            self._parts = None

    def end(self, ending: Ending, *, runs_again: bool = False) -> None:
        """End the process with this ending. Later requests are ignored.

        `runs_again`: the process executes its program again, which systemd calls a reload.
        """
        if self.ending.value is None:
            self.runs_again = runs_again
            if runs_again:
                notify(*reloading())
            elif ending is Ending.STOP:
                notify(*stopping(STOP_TIME + self._config.listing.drain + self._config.proxy.drain))
            self.ending.set(ending)
            if self._parts is not None:
                self._parts.endings.ask_nowait(ending)

    async def answer(self, command: str, reply: SendReply) -> None:
        """Answer a client of the control socket. Raises LookupError."""
        answers: dict[str, Callable[[SendReply], Awaitable[None]]] = {
            "status": self._answer_status,
            "leave": self._answer_leave,
            "joined": self._answer_joined,
            "redirected": self._answer_redirected,
            "reload": self._answer_reload,
            "confirm": self._answer_confirm,
            "renew": self._answer_renew,
            "swap": partial(self._answer_swap, False),
            "swap-forced": partial(self._answer_swap, True),
        }
        await answers[command](reply)

    async def _answer_status(self, reply: SendReply) -> None:
        if self._parts is not None and self._parts.redirect is not None and self._parts.ending is None:
            await self._parts.redirect.refresh()  # no change of its counters is published
        await reply(self.read_status())

    async def _answer_leave(self, reply: SendReply) -> None:
        if self._parts is None and load_membership(self._config.paths.state) is None:
            try:
                forget_everything(self._config.paths)  # the files of a join
            except HostError as error:
                await reply(_error_reply(error))
                return
            self._remains.set([])
        else:  # also while a boot that has removed the membership still closes: it has files to remove
            self._remains.set(None)
            self._is_leaving = True
            if self._parts is not None:
                self._parts.endings.ask_nowait(Ending.LEAVE)
            await reply({"state": State.LEAVING.value})
        remains = await self._remains.wait_for(lambda remains: remains is not None)
        if isinstance(remains, HostError):
            await reply(_error_reply(remains))
            return
        await reply({"state": State.UNJOINED.value, "remains": remains})

    async def _answer_joined(self, reply: SendReply) -> None:
        self._joined.set()
        while True:
            state = self.state.value
            await reply({"state": state.value, "waiting": waits_of(self._parts, None)})
            if state is State.READY:
                return
            with trio.move_on_after(REPORT_INTERVAL):
                await self.state.wait_for(lambda newest, last_state=state: newest is not last_state)  # type: ignore[misc]

    async def _answer_redirected(self, reply: SendReply) -> None:
        while True:
            found = is_redirected(self._parts)
            await reply({"redirected": found, "waiting": waits_of(self._parts, None)})
            if found:
                return
            with trio.move_on_after(REPORT_INTERVAL):
                while not is_redirected(self._parts):  # noqa: ASYNC110  the parts of a boot open one by one
                    await trio.sleep(FAST_POLL_INTERVAL)

    async def _answer_reload(self, reply: SendReply) -> None:
        reloads = self.ending.value is None
        if reloads:  # before the reply: systemd must not take the end of the client for the end of the reload
            notify(*reloading())
        try:
            await reply({"reloading": reloads})
        finally:
            self.end(Ending.HAND_OVER, runs_again=True)

    async def _answer_confirm(self, reply: SendReply) -> None:
        confirming = self._parts.confirming if self._parts is not None else None
        confirmed = confirming.confirm() if confirming is not None else forget_unconfirmed(self._config.paths.state)
        await reply({"confirmed": confirmed})

    async def _answer_renew(self, reply: SendReply) -> None:
        parts = self._parts
        if parts is None or parts.identity is None or parts.endings.asked.value:
            text = "no certificate can be renewed now: this machine is no member, is starting or is leaving"
            await reply(_error_reply(HostError(Fault.ANOTHER_AGENT, text, _SEE_STATUS)))
            return
        answer = _error_reply(HostError(Fault.ANOTHER_AGENT, "the agent is ending", _SEE_STATUS))
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._report_renewing, parts, reply, nursery.cancel_scope)
            answer = await _renew(parts.identity)
            nursery.cancel_scope.cancel()
        await reply(answer)

    async def _report_renewing(self, parts: Parts, reply: SendReply, scope: trio.CancelScope) -> None:
        """Report now and then that the agent works on it. When the boot ends, nobody renews: end the wait."""
        while self._parts is parts and not parts.endings.asked.value:
            await reply({"renewing": True})
            with trio.move_on_after(REPORT_INTERVAL):
                await parts.endings.wait()
        scope.cancel()

    async def _answer_swap(self, forced: bool, reply: SendReply) -> None:
        swap = self._parts.swap if self._parts is not None else None
        if swap is None:
            text = "no proxy can be swapped now: this machine is no member, is starting or is leaving"
            await reply(_error_reply(HostError(Fault.PROXY_UNUSABLE, text, _SEE_STATUS)))
            return
        async with open_bare_nursery() as nursery:
            nursery.start_soon(self._report_phases, swap, reply)
            outcome = await swap.request(forced=forced)
            nursery.cancel_scope.cancel()
        if outcome.error is not None:
            await reply(_error_reply(outcome.error))
        else:
            await reply({"swapped": {"from": outcome.old, "to": outcome.new, "seconds": round(outcome.took, 3)}})

    async def _report_phases(self, swap: Swap, reply: SendReply) -> None:
        """Report each step, and repeat it now and then: the client can rely on the agent still running."""
        while True:
            phase = swap.phase.value
            await reply({"step": phase.value if phase is not None else None, "clients": swap.clients.value})
            with trio.move_on_after(REPORT_INTERVAL):
                await swap.phase.wait_change()

    def read_status(self) -> dict[str, Any]:
        """The current status."""
        state_folder, now = self._config.paths.state, self._now()
        join = load_join(state_folder) if self._parts is None else None
        evicted = load_eviction(state_folder) if self._parts is None else None
        state = state_of(situation_of(self._parts, join))
        self._log_fields.update(log_fields_of(self._parts, state))
        if state is not self.state.value:
            before = f", was {self.state.value.value}" if self._status_line else ""  # none at the first reading
            log.info("state: %s%s", state.value, before)
            self._since = now
            self.state.set(state)
        waits = self._waits.observe(waits_of(self._parts, join), now)
        problems = self._problems.observe(problems_of(self._parts, join, evicted), now)
        self._log_waits({what: now - since for what, since in waits.items()})
        sections = sections_of(self._parts)
        line = status_line(state, sections.get("member", {}), list(waits), list(problems))
        if line != self._status_line:
            self._status_line = line
            notify(status(line))
        return build_status(__version__, state, self._since, sections, waits, problems, now)

    def _log_waits(self, waits: dict[str, float]) -> None:
        for what in self._logged_waits - waits.keys():
            log.info("no longer waiting for %s", what)
        self._logged_waits &= waits.keys()
        for what, lasted in waits.items():
            if lasted >= QUIET and what not in self._logged_waits:
                log.warning("waiting for %s (for %.0f s so far)", what, lasted)
                self._logged_waits.add(what)

    async def observe_state(self) -> None:
        """Log and publish changes of the state, and long waits, until cancelled. Proves to systemd that we are alive.

        A blocked main thread stops it, and so does a part whose values cannot be read.
        """
        interval = min(POLL_INTERVAL, self._watchdog / 2)  # half: source sd_watchdog_enabled(3)
        while True:
            self._observe()
            parts = self._parts
            if parts is not None and (sources := sources_of(parts)) is not None:
                async with open_any_change(*sources) as change:
                    while self._parts is parts and not parts.endings.asked.value:
                        self._observe()
                        await change.wait(interval)
            elif parts is not None or self._joined.is_set():
                await trio.sleep(FAST_POLL_INTERVAL)
            else:
                with trio.move_on_after(interval):
                    await self._joined.wait()

    def _observe(self) -> None:
        self.read_status()
        notify(*(["WATCHDOG=1"] if self._watchdog < inf else []))  # and what systemd's full queue has refused

    async def receive_signals(self, *, task_status: "trio.TaskStatus[None]") -> None:
        """End the process on a signal. SIGHUP hands over to the program as installed now, in the same process.

        SIGTERM and SIGINT stop; but if systemd restarts our unit, they hand over to the next process.
        """
        with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
            raise_recorded()
            task_status.started()
            async for number in signals:
                is_hangup = number == signal.SIGHUP
                is_restart = not is_hangup and await read_own_job() == "restart"
                ending = Ending.HAND_OVER if is_hangup or is_restart else Ending.STOP
                by = " (systemd restarts the unit)" if is_restart else ""
                log.info("%s: %s%s", signal.Signals(number).name, ending.value, by)
                self.end(ending, runs_again=is_hangup)


async def _renew(identity: Identity) -> dict[str, Any]:
    """Renew the certificate; returns the answer."""
    try:
        svid = await identity.renew_now()
    except TooSoonError as problem:
        return {"tooSoon": math.ceil(problem.left)}
    except ExclaveError as error:
        return _error_reply(error)
    return {"renewed": {"serial": f"{svid.serial:x}", "notAfter": rfc3339(svid.not_after)}}


def _error_reply(error: ExclaveError) -> dict[str, Any]:
    return error_object(error.fault.code, error.fault.word, error.message, error.hint)


@asynccontextmanager
async def _open_agent(agent: Agent, config: Config) -> AsyncIterator[None]:
    make_folder(config.paths.runtime, 0o755)
    make_folder(config.paths.state, 0o700)
    hint = "one machine is one member: stop the other agent first, for instance with systemctl stop exclave"
    with hold_lock(config.paths.runtime / "agent.lock", "another agent", hint) as lock:
        async with open_bare_nursery() as nursery, open_control(config.paths.runtime, agent.answer):
            await nursery.start(agent.receive_signals)
            nursery.start_soon(supervise, "status", agent.observe_state)
            nursery.start_soon(supervise, "runtime folder", RuntimeFolder(config.paths.runtime, lock).run)
            yield
            nursery.cancel_scope.cancel()


async def run(
    config: Config,
    now: Now,
    confirm: float | None = None,
    watchdog: float = inf,
    log_fields: MutableMapping[str, str] | None = None,
    check: CheckHost | None = None,
    *,
    waits_for_host: bool = False,
) -> bool:
    """Run an agent until it has to end; True if its program is to be executed again. Raises HostError, ConfigError.

    `confirm`: seconds after which the rules are removed unless a person confirms them. `watchdog`: seconds within which
    systemd expects a notification. `log_fields` is updated to the fields of log entries.
    `check` is run before each boot.
    `waits_for_host`: a member's agent does not end by a fault in MAY_HEAL, but tries again.
    """
    agent = Agent(config, now, watchdog, log_fields, check, waits_for_host=waits_for_host)
    async with _open_agent(agent, config):
        if confirm is not None:
            store_unconfirmed(config.paths.state, Unconfirmed(confirm))
        log.info("exclave %s", __version__)
        await agent.run()
    stopped = "stopped: traffic does not go through the mesh"
    notify(status(stopped if agent.ending.value is Ending.STOP else "handing over: traffic stays in the mesh"))
    return agent.runs_again
