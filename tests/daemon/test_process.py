"""The life of an agent: its boots, its answers, its signals and what it notifies systemd of."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.config import Config, Paths
from exclave.confirm.confirm import Unconfirmed, load_unconfirmed, store_unconfirmed
from exclave.daemon.parts import Parts
from exclave.daemon.process import FAST_POLL_INTERVAL, POLL_INTERVAL, REPORT_INTERVAL, Agent
from exclave.daemon.status import QUIET
from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError, error_object
from exclave.kit.host.files import hold_lock
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.supervise import supervise
from exclave.listing.serving import ListingView
from exclave.member.record import (
    JoinRecord,
    MembershipRecord,
    forget_membership,
    load_join,
    store_eviction,
    store_join,
    store_membership,
)
from exclave.member.state import Standing, State
from exclave.redirect.kernel.observe import Observed
from exclave.swap.plan import SwapReason
from exclave.swap.swap import SwapOutcome, SwapPhase
from support.mesh import RECORD, fake_part

from .agent_world import World

# Boots and endings.


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


async def test_a_boot_that_ends_for_a_reason_of_its_own_is_followed_by_the_next(world: World) -> None:
    async with world.living():
        world.boots[0].endings.ask_nowait(Ending.STOP)
    assert world.trace == ["boot web-k7q2x-1", "boot ends: stop", "boot web-k7q2x-1"]


async def test_a_status_has_the_current_counters_of_the_rules(world: World) -> None:
    class Counting:
        """A redirect that finds one connection more whenever it looks."""

        observed, problem, in_place, repairs = Latest(Observed()), Latest(None), True, 0

        async def refresh(self) -> None:
            await trio.lowlevel.checkpoint()
            self.observed.set(replace(self.observed.value, inbound=self.observed.value.inbound + 1))

    async with world.living():
        world.boots[0].redirect = Counting()  # type: ignore[assignment]
        for count in (1, 2):
            (status,) = await world.ask("status")
            assert status["redirect"]["captured"] == {"inbound": count, "outbound": 0}
        world.boots[0].ending = Ending.STOP  # on the way out nothing is put in place again
        (status,) = await world.ask("status")
        assert status["redirect"]["captured"]["inbound"] == 2


@pytest.mark.parametrize("ending", [Ending.STOP, Ending.HAND_OVER])
async def test_the_first_ending_that_is_asked_for_decides(world: World, ending: Ending) -> None:
    store_membership(world.state, RECORD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.agent.run)
        await trio.testing.wait_all_tasks_blocked()
        world.agent.end(ending)
        world.agent.end(Ending.LEAVE)
    boots = [line for line in world.trace if line.startswith("boot")]
    assert boots == ["boot web-k7q2x-1", f"boot ends: {ending.value}"]
    assert world.agent.ending.value is ending


async def test_a_stop_before_the_first_boot_undoes_what_an_earlier_agent_left(world: World) -> None:
    world.agent.end(Ending.STOP)
    async with world.living():
        pass
    assert [line for line in world.trace if "boot" in line] == [f"boot {RECORD.member}", "boot ends: stop"]


# Signals, and what systemd is notified of.

STOPPING = ["STOPPING=1", "EXTEND_TIMEOUT_USEC=280000000"]  # 240 s, and the two drains of 10 s and 30 s
RELOADING = ["RELOADING=1", "MONOTONIC_USEC=…"]


@pytest.mark.parametrize(
    ("number", "job", "ending", "runs_again", "notified"),
    [
        (signal.SIGTERM, None, Ending.STOP, False, STOPPING),
        (signal.SIGINT, None, Ending.STOP, False, STOPPING),
        (signal.SIGTERM, "stop", Ending.STOP, False, STOPPING),
        (signal.SIGTERM, "restart", Ending.HAND_OVER, False, []),
        (signal.SIGHUP, None, Ending.HAND_OVER, True, RELOADING),
        (signal.SIGHUP, "restart", Ending.HAND_OVER, True, RELOADING),
    ],
)
async def test_a_signal_ends_the_process_as_systemd_means_it(
    world: World, number: signal.Signals, job: str | None, ending: Ending, runs_again: bool, notified: list[str]
) -> None:
    world.job = job
    async with trio.open_nursery() as nursery:
        await nursery.start(world.agent.receive_signals)
        nursery.start_soon(world.agent.run)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), number)
        await world.agent.ending.wait_for(lambda found: found is not None)
        nursery.cancel_scope.cancel()
    assert (world.agent.ending.value, world.agent.runs_again) == (ending, runs_again)
    assert [re.sub(r"(?<=MONOTONIC_USEC=)\d+", "…", line) for line in world.trace] == ["READY=1", *notified]


async def test_a_reload_is_notified_before_its_client_gets_the_answer(world: World) -> None:
    notified: list[list[str]] = []

    async def reply(object_: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        assert object_ == {"reloading": True}
        notified.append(list(world.trace))
        raise trio.BrokenResourceError  # the client has gone: the reload goes on

    with pytest.raises(trio.BrokenResourceError):
        await world.agent.answer("reload", reply)
    assert notified[0][0] == "RELOADING=1"
    assert (world.agent.ending.value, world.agent.runs_again) == (Ending.HAND_OVER, True)


async def test_an_agent_that_stops_does_not_reload(world: World) -> None:
    world.agent.end(Ending.STOP)
    assert await world.ask("reload") == [{"reloading": False}]
    assert (world.agent.ending.value, world.trace) == (Ending.STOP, STOPPING)


async def test_a_stop_that_was_asked_for_before_is_no_reload(world: World) -> None:
    world.agent.end(Ending.STOP)
    world.agent.end(Ending.HAND_OVER, runs_again=True)
    assert (world.agent.ending.value, world.agent.runs_again, world.trace) == (Ending.STOP, False, STOPPING)


async def test_systemd_has_the_state_on_one_line_and_again_only_after_a_change(world: World) -> None:
    for _ in range(2):
        world.agent.read_status()
    store_join(world.state, JoinRecord("nonce", "web-k7q2x-1", "sha", "key"))
    for _ in range(2):
        world.agent.read_status()
    assert world.statuses == [
        "unjoined: idle, and nothing on this machine is changed; to join a mesh: exclave join",
        "joining; waiting for exclave join to come to its end",
    ]


@pytest.mark.parametrize("membership", [None, RECORD])
async def test_the_watchdog_is_fed_twice_in_its_time_also_while_nothing_changes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    membership: MembershipRecord | None,
) -> None:
    world = World(tmp_path, monkeypatch, watchdog=4.0)
    async with world.living(membership) as nursery:
        if membership is not None:
            make_whole(world.boots[0])
        nursery.start_soon(world.agent.observe_state)
        await trio.sleep(20.0)
        assert world.trace.count("WATCHDOG=1") in (10, 11, 12)


async def test_the_watchdog_is_not_fed_by_an_agent_that_cannot_read_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path, monkeypatch, watchdog=4.0)

    def broken() -> dict[str, Any]:
        raise ZeroDivisionError

    async with world.living(None) as nursery:
        monkeypatch.setattr(world.agent, "read_status", broken)
        nursery.start_soon(supervise, "status", world.agent.observe_state)
        await trio.sleep(20.0)
    assert "WATCHDOG=1" not in world.trace


def test_entries_of_the_log_have_the_state_and_the_member_as_fields(tmp_path: Path) -> None:
    fields: dict[str, str] = {}
    agent = Agent(Config(Paths(tmp_path, tmp_path)), lambda: 0.0, log_fields=fields)
    agent.read_status()
    assert fields == {"EXCLAVE_STATE": "unjoined", "EXCLAVE_MEMBER": ""}
    agent._parts = Parts(EndingSwitch(), RECORD)
    agent.read_status()
    assert fields == {"EXCLAVE_STATE": "starting", "EXCLAVE_MEMBER": "shop/web-k7q2x-1"}


async def test_without_a_watchdog_systemd_hears_nothing_of_it(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.living(None) as nursery:
        nursery.start_soon(world.agent.observe_state)
        await trio.sleep(20.0)
    assert world.trace == ["READY=1"]


async def test_without_a_membership_it_waits_until_an_ending_is_asked_for(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.agent.run)
        await trio.testing.wait_all_tasks_blocked()
        world.agent.end(Ending.STOP)
    assert world.trace == ["READY=1", *STOPPING]


async def test_a_join_that_notifies_it_is_noticed_at_once(world: World) -> None:
    async with world.living(None) as nursery:
        store_membership(world.state, RECORD)
        nursery.start_soon(world.ask, "joined")
    assert world.trace == ["READY=1", "boot web-k7q2x-1"]


async def test_a_join_that_could_not_notify_it_is_found(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with world.living(None):
        store_membership(world.state, RECORD)
        await trio.sleep(POLL_INTERVAL + 1)
        assert world.trace[-1] == "boot web-k7q2x-1"


# Looking.


class Watched(World):
    """An agent that looks at itself, and the times of its looks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        self.looks: list[float] = []
        read_status = self.agent.read_status

        def noted() -> dict[str, Any]:
            self.looks.append(trio.current_time())
            return read_status()

        monkeypatch.setattr(self.agent, "read_status", noted)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def make_whole(parts: Parts) -> Any:
    """Have the parts that tell of a state; the listing."""
    parts.cluster = fake_part(waiting=None, looping=None, reachable=True, credential=SimpleNamespace(expires=0.0))
    parts.cluster.server, parts.cluster.counts = "", {}  # type: ignore[misc, assignment]
    parts.cluster.skew = None  # type: ignore[misc]
    parts.membership = fake_part(standing=Standing.MEMBER, settings=None, view=None, problem=None, address_problem=None)
    parts.membership.answered_at = parts.membership.last_answer = None
    parts.membership.settings_digest, parts.membership.heartbeat_age = None, lambda: None  # type: ignore[method-assign]
    parts.listing = fake_part(state=ListingView(serving=True, ready=True))
    return parts.listing


async def test_an_open_boot_is_polled_at_changes_and_rarely_otherwise(
    watched: Watched, autojump_clock: trio.testing.MockClock
) -> None:
    async with watched.living() as nursery:
        listing = make_whole(watched.boots[0])
        nursery.start_soon(watched.agent.observe_state)
        await trio.sleep(1.0)
        assert watched.agent.state.value is State.READY
        watched.looks.clear()
        await trio.sleep(10 * POLL_INTERVAL)
        assert len(watched.looks) == 10
        for is_ready, state in ((False, State.PENDING), (True, State.READY)):
            listing.state.set(ListingView(serving=True, ready=is_ready))
            await trio.testing.wait_all_tasks_blocked()
            assert watched.agent.state.value is state
        watched.closing = trio.Event()
        watched.agent.end(Ending.STOP)
        await trio.sleep(1.0)
        assert watched.agent.state.value is State.STOPPING
        watched.closing.set()


async def test_without_a_membership_it_rarely_polls_until_a_join_notifies_it(
    watched: Watched, autojump_clock: trio.testing.MockClock
) -> None:
    async with watched.living(None) as nursery:
        nursery.start_soon(watched.agent.observe_state)
        await trio.sleep(10 * POLL_INTERVAL + 1)
        assert len(watched.looks) == 11
        store_membership(watched.state, RECORD)
        nursery.start_soon(watched.ask, "joined")
        await trio.sleep(0.5)
        assert watched.agent.state.value is State.STARTING
        make_whole(watched.boots[0])
        await trio.sleep(0.5)
        assert watched.agent.state.value is State.READY


# Leaving.


async def test_leaving_ends_the_boot_and_reports_begin_and_end(world: World) -> None:
    async with world.living():
        assert await world.ask("leave") == [{"state": "leaving"}, {"state": "unjoined", "remains": []}]
    assert world.trace == ["boot web-k7q2x-1", "boot ends: leave", "READY=1"]


async def test_leaving_that_comes_while_a_boot_closes_for_another_reason_follows_it(world: World) -> None:
    world.closing = trio.Event()
    async with world.living() as nursery:
        world.boots[0].endings.ask_nowait(Ending.HAND_OVER)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(world.ask, "leave")
        await trio.testing.wait_all_tasks_blocked()
        world.closing.set()
    assert world.trace == ["boot web-k7q2x-1", "boot ends: hand-over", "departs web-k7q2x-1", "READY=1"]


async def test_a_member_that_was_leaving_before_a_crash_does_not_come_back(world: World) -> None:
    async with world.living(replace(RECORD, leaving=True)):
        pass
    assert world.trace == ["departs web-k7q2x-1", "READY=1"]


async def test_what_remains_is_reported(world: World) -> None:
    world.closing = trio.Event()
    async with world.living() as nursery:
        world.boots[0].endings.ask_nowait(Ending.HAND_OVER)
        told: list[Any] = []

        async def leave() -> None:
            told.extend(await world.ask("leave"))

        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        world.closing.set()
        await trio.testing.wait_all_tasks_blocked()
        assert told[-1] == {"state": "unjoined", "remains": ["Member shop/web-k7q2x-1"]}


async def test_what_a_leave_that_was_cut_off_has_left_is_removed_at_the_start(world: World) -> None:
    (world.state / "credential.json").touch()
    async with world.living(None):
        assert not (world.state / "credential.json").exists()


async def test_what_a_join_has_written_by_now_is_not_removed_at_the_start(world: World) -> None:
    """Its membership.json comes last, also where it moves its files into their place."""
    (world.state / "credential.json").touch()
    with hold_lock(world.config.paths.runtime / "join.lock", "a join", ""):
        async with world.living(None):
            pass
    assert (world.state / "credential.json").exists()


async def test_leaving_waits_for_a_boot_that_closes_after_it_has_forgotten_the_membership(world: World) -> None:
    world.closing = trio.Event()
    async with world.living() as nursery:
        world.boots[0].endings.ask_nowait(Ending.LEAVE)  # evicted, for instance
        forget_membership(world.state)
        (world.state / "credential.json").touch()
        told: list[Any] = []

        async def leave() -> None:
            told.extend(await world.ask("leave"))

        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        assert told == [] and (world.state / "credential.json").exists()
        world.closing.set()
        await trio.testing.wait_all_tasks_blocked()
        assert told == [{"state": "leaving"}, {"state": "unjoined", "remains": []}]


async def test_what_cannot_be_removed_is_an_error_of_leaving(world: World) -> None:
    (world.state / "credential.json").mkdir()
    assert await world.ask("leave") == [
        error_object(
            33,
            "disk",
            f"cannot write {world.state}/credential.json: Is a directory",
            "make that folder exist and writable for root",
        )
    ]


async def test_leaving_without_a_membership_forgets_what_a_join_has_left(world: World) -> None:
    store_join(world.state, JoinRecord("nonce", "web-k7q2x-1", "sha", "key"))
    assert await world.ask("leave") == [{"state": "unjoined", "remains": []}]
    assert load_join(world.state) is None


# Telling.


async def test_a_join_gets_each_state_until_the_member_is_ready(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[dict[str, Any]] = []

    async def listen() -> None:
        told.extend(await world.ask("joined"))

    async with world.living() as nursery:
        world.agent.read_status()
        nursery.start_soon(listen)
        await trio.sleep(REPORT_INTERVAL + 1)
        world.boots[0].listing = fake_part(state=ListingView(serving=True, ready=True))
        world.agent.read_status()
        await trio.sleep(REPORT_INTERVAL + 1)
    assert told == [
        {"state": "starting", "waiting": []},
        {"state": "starting", "waiting": []},  # so that whoever waits knows that we are there
        {"state": "ready", "waiting": []},
    ]


async def test_a_wait_for_the_rules_gets_what_is_missing_and_ends_when_they_point_to_a_ready_proxy(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[dict[str, Any]] = []

    async def listen() -> None:
        told.extend(await world.ask("redirected"))

    async with world.living() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(REPORT_INTERVAL + 0.1)
        world.boots[0].proxy = fake_part(ready="a")
        world.boots[0].redirect = fake_part(observed=Observed(instance="a"))
        world.boots[0].redirect.in_place = True  # type: ignore[misc]
        await trio.sleep(FAST_POLL_INTERVAL + 0.1)
    assert [report["redirected"] for report in told] == [False, False, True]


class Swapping:
    """Swaps as far as a client hears of them."""

    def __init__(self, error: HostError | None = None) -> None:
        self.phase: Latest[SwapPhase | None] = Latest(None)
        self.clients: Latest[int | None] = Latest(None)
        self.asked: list[bool] = []
        self._error = error

    async def request(self, *, forced: bool) -> SwapOutcome:
        self.asked.append(forced)
        await trio.sleep(1)
        self.phase.set(SwapPhase.TRYING)
        await trio.sleep(1)
        return SwapOutcome("a", "b", SwapReason.ASKED, 1.23456, self._error)


async def test_a_swap_command_gets_the_steps_and_the_result(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.living():
        swap: Any = Swapping()
        world.boots[0].swap = swap
        told = await world.ask("swap")
        forced = await world.ask("swap-forced")
    assert told == [
        {"step": None, "clients": None},
        {"step": "trying a connection through it", "clients": None},
        {"swapped": {"from": "a", "to": "b", "seconds": 1.235}},
    ]
    assert forced[-1] == told[-1]
    assert swap.asked == [False, True]


async def test_an_abandoned_swap_is_an_error(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with world.living():
        swap: Any = Swapping(HostError(Fault.NFT_UNUSABLE, "nft refused the rules", "see nft"))
        world.boots[0].swap = swap
        told = await world.ask("swap")
    error = {"code": 31, "word": "nft-unusable", "message": "nft refused the rules", "hint": "see nft"}
    assert told[-1] == {"error": error}


async def test_without_a_proxy_there_is_nothing_to_swap(world: World) -> None:
    async with world.living(None):
        (told,) = await world.ask("swap")
    assert (told["error"]["code"], told["error"]["message"]) == (
        32,
        "no proxy can be swapped now: this machine is no member, is starting or is leaving",
    )


async def test_confirming_is_for_the_boot_that_runs(world: World) -> None:
    async with world.living():
        world.boots[0].confirming = SimpleNamespace(confirm=lambda: True)  # type: ignore[assignment]
        assert await world.ask("confirm") == [{"confirmed": True}]


async def test_confirming_without_a_boot_confirms_what_is_noted_on_disk(world: World) -> None:
    store_unconfirmed(world.state, Unconfirmed(60.0))
    async with world.living(None):
        assert await world.ask("confirm") == [{"confirmed": True}]
        assert await world.ask("confirm") == [{"confirmed": False}]
    assert load_unconfirmed(world.state) is None


async def test_an_unknown_command_is_a_lookup_error(world: World) -> None:
    with pytest.raises(LookupError):
        await world.ask("dance")


async def test_a_state_has_the_time_of_its_begin(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "exclave.daemon.process")
    (told,) = await world.ask("status")
    assert (told["state"], told["since"]) == ("unjoined", "2027-01-15T08:00:00Z")
    world.now += 60
    store_join(world.state, JoinRecord("nonce", "web-k7q2x-1", "sha", "key"))
    for _ in range(2):
        (told,) = await world.ask("status")
        assert (told["state"], told["since"]) == ("joining", "2027-01-15T08:01:00Z")
        world.now += 60
    told_of_states = [message for message in caplog.messages if message.startswith("state")]
    assert told_of_states == ["state: joining, was unjoined"]
    assert world.agent.state.value is State.JOINING


async def test_a_wait_is_logged_when_it_lasts_and_when_it_is_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "exclave.daemon.process")
    for seconds in (0.0, QUIET - 1, QUIET, QUIET + 60):
        world.now = 1_800_000_000.0 + seconds
        status = world.agent.read_status()
    assert status["waiting"] == [{"for": "somebody to run exclave join", "since": "2027-01-15T08:00:00Z"}]
    async with world.living():
        world.agent.read_status()
    assert [message for message in caplog.messages if "waiting" in message] == [
        "waiting for somebody to run exclave join (for 15 s so far)",
        "no longer waiting for somebody to run exclave join",
    ]


async def test_an_evicted_machine_reports_that_until_it_joins_again(world: World) -> None:
    store_eviction(world.state, RECORD, world.now)
    assert [problem["code"] for problem in world.agent.read_status()["problems"]] == ["evicted"]
    async with world.living():
        assert world.agent.read_status()["problems"] == []
