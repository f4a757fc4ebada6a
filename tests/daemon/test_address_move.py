"""Another address in virtual time: what is on disk, in the Member and in the rules, in which order.

The membership is the real one over the sandbox's store; a controller writes what is claimed into the ExternalWorkload a
second after it hears, and a swap takes two.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, Object, Request
from exclave.cluster.watch import Upserted
from exclave.config import Config, MemberConfig, Paths
from exclave.daemon import address_move as moving
from exclave.daemon.address_move import POLL_INTERVAL, POLLS, AddressMover
from exclave.ending import EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.member import addresses
from exclave.member.addresses import CONFIRM_INTERVAL, SLOW, Found
from exclave.member.addresses import POLL_INTERVAL as ROUTE_INTERVAL
from exclave.member.client import MemberClient, open_member
from exclave.member.record import load_membership, store_membership
from exclave.member.write_limit import FORGET, PAUSES
from support.figures import add_figure
from support.mesh import ADDRESS, MEMBER, NAMESPACE, RECORD, make_settings, put_member
from support.store import StoreCluster

NEW, SIX, DRAIN = "10.77.0.21", "fd00:77::20", 10.0
SETTINGS = make_settings(networks=("10.77.0.0/24", "fd00:77::/64"))


STAGE = Path(__file__).with_name("address_move.py")


def virtual_now() -> float:
    return 1_800_000_000.0 + trio.current_time()


class World:
    """A member that serves at `ADDRESS`. `here` are the addresses on its links; `trace` what has changed, and when."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here = {ADDRESS}
        self.route = ADDRESS
        self.cluster = StoreCluster(virtual_now)
        put_member(self.cluster, SETTINGS, serving=True, dataPath="meshed")
        self.folder = folder
        self.trace: list[str] = []
        self.refuses: set[str] = set()
        self.controller_works = Latest(True)
        self.swaps = Latest(True)
        self.told: Latest[tuple[str, ...]] = Latest((ADDRESS,))  # what the proxy that has traffic was told
        self.proxy: Any = SimpleNamespace(
            chosen=Latest("a"), ready=Latest("a"), instances=Latest({}), has_settings=lambda _: self.has_settings()
        )
        self.redirect: Any = SimpleNamespace(
            wanted=Latest(SimpleNamespace(addresses=(ADDRESS,), instance="a")), observed=Latest(0), in_place=True
        )
        for module in (moving, addresses):
            monkeypatch.setattr(module, "on_this_machine", lambda asked: frozenset(asked) & self.here)
        monkeypatch.setattr(addresses, "find_address", self._find_address)
        store_membership(folder, RECORD)

    def _find_address(self, *_: Any) -> Found:
        return Found(self.route, "route")

    def move(self, address: str, *, stays: bool = True) -> None:
        """Another address comes, and the one before it stays or goes."""
        self.here = {*self.here, address} if stays else {address}
        self.route = address

    def has_settings(self) -> bool:
        return self.told.value == self.member.captured.value

    @asynccontextmanager
    async def moving(self) -> AsyncIterator[MemberClient]:
        record = load_membership(self.folder)
        assert record is not None
        config, cluster = Config(Paths(self.folder, self.folder), MemberConfig()), self.cluster
        async with trio.open_nursery() as nursery:
            async with open_member(record, config, cluster, EndingSwitch(), virtual_now) as member:  # type: ignore[arg-type]
                self.member = member
                nursery.start_soon(self._control)
                nursery.start_soon(self._swap)
                nursery.start_soon(self._note)
                nursery.start_soon(AddressMover(member, self.proxy, self.redirect, DRAIN).run)
                await trio.sleep(1)
                yield member
            nursery.cancel_scope.cancel()

    async def _swap(self) -> None:
        """Rules follow what is to be serve, two seconds later."""
        async for wanted in self.member.captured.changes():
            await self.swaps.wait_for(bool)
            if wanted != self.told.value:
                await trio.sleep(2)
                self.told.set(wanted)
                self.redirect.wanted.set(SimpleNamespace(addresses=wanted, instance="a"))
                self._line(f"served: {', '.join(wanted)}")

    async def _control(self) -> None:
        async with self.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for event in events:
                assert isinstance(event, Upserted)
                await self.controller_works.wait_for(bool)
                (claimed,) = event.object["spec"]["addresses"]
                refused = claimed in self.refuses
                if not refused and self.listed() != claimed:
                    await trio.sleep(1)
                    spec = {"spec": {"workloadIPs": [{"ip": claimed}]}}
                    self.cluster.change(EXTERNAL_WORKLOADS, NAMESPACE, MEMBER, spec)
                    self._line(f"listed: {claimed}")
                condition = {
                    "type": "Registered",
                    "status": "False" if refused else "True",
                    "reason": "AddressInUse" if refused else "Registered",
                    "message": "in use" if refused else "stands",
                }
                if (event.object["status"].get("conditions") or [None])[0] != condition:
                    self.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": {"conditions": [condition]}}, "status")

    def listed(self) -> str:
        found = self.cluster.find(EXTERNAL_WORKLOADS, NAMESPACE, MEMBER)
        assert found is not None
        return str((found["spec"].get("workloadIPs") or [{"ip": ""}])[0]["ip"])

    async def _note(self) -> None:
        said = [ADDRESS]
        async with self.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for event in events:
                assert isinstance(event, Upserted)
                if event.object["spec"]["addresses"] != said:
                    said = event.object["spec"]["addresses"]
                    self._line(f"claimed: {said[0]}")

    def _line(self, text: str) -> None:
        self.trace.append(f"{trio.current_time():4.0f} s  {text}")


@pytest.fixture
def make_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> Callable[[], World]:
    return lambda: World(tmp_path, monkeypatch)


async def test_the_new_one_is_served_then_claimed_then_listed_and_then_the_old_one_goes(
    make_world: Callable[[], World],
) -> None:
    world = make_world()
    async with world.moving() as member:
        await trio.sleep(4)
        world.trace.clear()
        world.move(NEW)
        await trio.sleep(60)
        assert member.captured.value == (NEW,)
    assert world.trace == [
        f"  14 s  served: {NEW}, {ADDRESS}",
        f"  14 s  claimed: {NEW}",
        f"  15 s  listed: {NEW}",
        f"  28 s  served: {NEW}",
    ]


async def test_one_that_is_gone_is_no_longer_served(make_world: Callable[[], World]) -> None:
    world = make_world()
    async with world.moving():
        await trio.sleep(4)
        world.trace.clear()
        world.move(NEW, stays=False)
        await trio.sleep(60)
    assert world.trace == [f"  14 s  served: {NEW}", f"  14 s  claimed: {NEW}", f"  15 s  listed: {NEW}"]
    record = load_membership(world.folder)
    assert record is not None and (record.address, record.former) == (NEW, "")


async def test_while_no_swap_is_possible_the_old_address_stays_and_a_problem_is_reported(
    make_world: Callable[[], World], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    world.swaps.set(False)
    async with world.moving() as member:
        world.move(NEW)
        await trio.sleep(ROUTE_INTERVAL + CONFIRM_INTERVAL + SLOW)
        problem = member.address_problem.value
        assert problem is not None and problem.why.startswith(f"{NEW} is this machine's address now; pods still use")
        await trio.sleep(600)
        assert not any("claimed" in line for line in world.trace)
        assert len([line for line in caplog.messages if line.startswith(f"address: {NEW}")]) == 1
        world.swaps.set(True)
        await trio.sleep(5)
        assert member.address_problem.value is None
        assert world.listed() == NEW


async def test_one_outside_of_the_networks_is_never_claimed(make_world: Callable[[], World]) -> None:
    world = make_world()
    async with world.moving() as member:
        await trio.sleep(5)
        world.trace.clear()
        world.move("192.0.2.9")
        await trio.sleep(300)
        assert (
            member.address_problem.value is not None
            and "none of the group's networks" in member.address_problem.value.why
        )
        assert member.captured.value == (ADDRESS,)
    assert world.trace == []


async def test_a_refused_address_is_replaced_by_the_old_one_and_not_tried_again(
    make_world: Callable[[], World],
) -> None:
    world = make_world()
    world.refuses.add(NEW)
    async with world.moving() as member:
        await trio.sleep(4)
        world.trace.clear()
        world.move(NEW)
        await trio.sleep(600)
        assert member.address_problem.value is not None and "has refused it" in member.address_problem.value.why
    assert world.trace == [
        f"  14 s  served: {NEW}, {ADDRESS}",
        f"  14 s  claimed: {NEW}",
        f"  14 s  claimed: {ADDRESS}",
        f"  16 s  served: {ADDRESS}",
    ]


async def test_while_the_controller_is_away_the_old_one_is_served_on_and_little_is_asked(
    make_world: Callable[[], World],
) -> None:
    world = make_world()
    async with world.moving() as member:
        await trio.sleep(5)
        world.controller_works.set(False)
        world.move(NEW)
        await trio.sleep(600)
        assert member.captured.value == (NEW, ADDRESS)
        asked = world.cluster.trace.count(f"get externalworkloads/status {MEMBER}")
        assert 600 / POLLS.most <= asked <= 600 / POLLS.most + 8
        world.controller_works.set(True)
        await trio.sleep(POLLS.most + DRAIN + 5)
        assert member.captured.value == (NEW,)


async def test_an_agent_that_was_killed_goes_on_where_it_stood(make_world: Callable[[], World]) -> None:
    world = make_world()
    world.controller_works.set(False)
    async with world.moving() as member:
        world.move(NEW)
        await trio.sleep(20)
    async with world.moving() as member:
        assert member.captured.value == (NEW, ADDRESS)
        world.controller_works.set(True)
        await trio.sleep(POLLS.most + DRAIN)
        assert member.captured.value == (NEW,)


async def test_an_address_of_the_other_family_is_walked_to(make_world: Callable[[], World]) -> None:
    world = make_world()
    async with world.moving() as member:
        world.move(SIX)
        await member.needs_walk_back.wait_for(bool)
        assert member.captured.value == (ADDRESS,)
    serving = {"spec": {"serving": False}}
    world.cluster.change(MEMBERS, NAMESPACE, MEMBER, serving)
    async with world.moving() as member:
        await trio.sleep(POLL_INTERVAL)
        assert member.captured.value == (SIX,)
        assert world.trace[-1].endswith(f"served: {SIX}")
        assert not member.needs_walk_back.value


async def test_what_others_wrote_into_the_member_is_put_right(make_world: Callable[[], World]) -> None:
    world = make_world()
    async with world.moving():
        world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"spec": {"addresses": ["10.77.0.99"]}})
        await trio.sleep(2)
        found = world.cluster.find(MEMBERS, NAMESPACE, MEMBER)
        assert found is not None and found["spec"]["addresses"] == [ADDRESS]


async def test_no_request_is_sent_while_nothing_changes(make_world: Callable[[], World]) -> None:
    world = make_world()
    async with world.moving():
        await trio.sleep(5)
        seen = len(world.cluster.trace)
        await trio.sleep(3600)
        later = world.cluster.trace[seen:]
    assert all("leases" in one for one in later), later


# Two machines with one membership: the disk of one is a copy of the other's.

LATENCY = 0.1  # seconds of each request; without it, two clones that do not pause would stop virtual time


class SlowCluster(StoreCluster):
    async def send(self, request: Request) -> Object:
        await trio.sleep(LATENCY)
        return await super().send(request)


@asynccontextmanager
async def clone(cluster: StoreCluster, folder: Path, address: str) -> AsyncIterator[MemberClient]:
    """A machine that serves at `address`, which is in its configuration."""
    folder.mkdir()
    record = replace(RECORD, address=address)
    store_membership(folder, record)
    rules = SimpleNamespace(addresses=(address,), instance="a")
    proxy: Any = SimpleNamespace(
        chosen=Latest("a"), ready=Latest("a"), instances=Latest({}), has_settings=lambda _: True
    )
    redirect: Any = SimpleNamespace(wanted=Latest(rules), observed=Latest(0), in_place=True)
    config = Config(Paths(folder, folder), MemberConfig(address))
    async with trio.open_nursery() as nursery:
        async with open_member(record, config, cluster, EndingSwitch(), virtual_now) as member:  # type: ignore[arg-type]
            nursery.start_soon(AddressMover(member, proxy, redirect, DRAIN).run)
            yield member
        nursery.cancel_scope.cancel()


async def note_claims(cluster: StoreCluster, claims: dict[str, list[float]]) -> None:
    """When the Member got each address."""
    last = ADDRESS
    async with cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
        async for event in events:
            assert isinstance(event, Upserted)
            (address,) = event.object["spec"]["addresses"]
            if address != last:
                last = address
                claims.setdefault(address, []).append(trio.current_time())


@asynccontextmanager
async def two_clones(folder: Path) -> AsyncIterator[tuple[SlowCluster, dict[str, list[float]], list[Any]]]:
    """The cluster, when each address was claimed, and what ends each of the two machines with its client."""
    cluster, claims = SlowCluster(virtual_now), dict[str, list[float]]()
    put_member(cluster, SETTINGS, serving=True, dataPath="meshed")
    async with trio.open_nursery() as nursery, AsyncExitStack() as first, AsyncExitStack() as second:
        nursery.start_soon(note_claims, cluster, claims)
        machines = [
            (stack, await stack.enter_async_context(clone(cluster, folder / address, address)))
            for stack, address in ((first, ADDRESS), (second, NEW))
        ]
        yield cluster, claims, machines
        nursery.cancel_scope.cancel()


async def test_two_clones_overwrite_each_others_address_with_growing_pauses(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with two_clones(tmp_path) as (_, claims, machines):
        await trio.sleep(3600)
        problems = [member.address_problem.value for _, member in machines]
    assert set(claims) == {ADDRESS, NEW}
    for times in claims.values():
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert all(pause >= PAUSES.pause(number, 0.0) - LATENCY for number, pause in enumerate(pauses))
        assert len(times) > 10, "nobody gives up: the other machine may end at any time"
    began = min(claims[NEW])
    first_minute = sum(time < began + 60 for times in claims.values() for time in times)
    add_figure(f"two clones at two addresses: {first_minute} writes of them in the first minute, then 24 an hour")
    assert [problem is not None and problem.is_overwritten for problem in problems] == [True, True]
    assert problems[0] is not None and problems[0].why.startswith(
        f"{ADDRESS} is this machine's address, and somebody else replaces it by {NEW} in the Member"
    )


async def test_when_a_clone_ends_the_other_ones_address_stands_and_later_the_problem_ends(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_clones(tmp_path) as (cluster, _, ((_, member), (end_of_second, _))):
        await trio.sleep(1200)
        await end_of_second.aclose()
        await trio.sleep(PAUSES.most + 1)
        found = cluster.find(MEMBERS, NAMESPACE, MEMBER)
        assert found is not None and found["spec"]["addresses"] == [ADDRESS]
        assert member.address_problem.value is not None
        await trio.sleep(FORGET + POLL_INTERVAL)
        assert member.address_problem.value is None
    logged = [line for line in caplog.messages if line.startswith(f"address: {ADDRESS} is this machine's")]
    assert len(logged) == 1, "once, however often the two take turns"


async def test_a_watch_that_brings_nothing_is_no_conflict(
    make_world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    works, real = Latest(True), world.cluster.watch

    @asynccontextmanager
    async def watch(*of: Any) -> AsyncIterator[AsyncIterator[Any]]:
        async with real(*of) as events:

            async def late() -> AsyncIterator[Any]:
                async for event in events:
                    await works.wait_for(bool)
                    yield event

            yield late()

    monkeypatch.setattr(world.cluster, "watch", watch)
    async with world.moving() as member:
        await trio.sleep(4)
        works.set(False)
        world.move(NEW)
        await trio.sleep(300)
        found = world.cluster.find(MEMBERS, NAMESPACE, MEMBER)
        assert found is not None and found["spec"]["addresses"] == [NEW]
        assert world.cluster.trace.count(f"patch members {MEMBER}") > 3
        assert member.address_problem.value is None


async def test_an_address_that_was_just_found_is_claimed_at_once_although_the_last_one_was_overwritten(
    make_world: Callable[[], World],
) -> None:
    world = make_world()

    async def overwrite() -> None:
        async with world.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for event in events:
                assert isinstance(event, Upserted)
                if event.object["spec"]["addresses"] == [ADDRESS]:
                    await trio.sleep(LATENCY)
                    world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"spec": {"addresses": ["10.77.0.99"]}})

    async with world.moving(), trio.open_nursery() as nursery:
        nursery.start_soon(overwrite)
        await trio.sleep(1200)
        world.trace.clear()
        world.move(NEW)
        await trio.sleep(ROUTE_INTERVAL + CONFIRM_INTERVAL + 3)
        claimed = [line for line in world.trace if line.endswith(f"claimed: {NEW}")]
        served = [line for line in world.trace if line.endswith(f"served: {NEW}, {ADDRESS}")]
        assert [line[:6] for line in claimed] == [line[:6] for line in served]
        nursery.cancel_scope.cancel()


# On a real kernel, with a real agent, under load.


def play(how: str) -> dict[str, Any]:
    apart = ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--mount", "--", sys.executable, str(STAGE), how]
    done = subprocess.run(apart, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)
    for way, seen in told["loads"].items():
        add_figure(f"{how}, {way}: {seen['new']} new, {seen['reused']} on kept connections, failed {seen['failures']}")
    add_figure(f"{how}: pods reach it after {told['reached']:.1f} s, over after {told['over']:.1f} s")
    return told


@pytest.mark.timeout(200)
def test_a_machine_that_gets_another_address_and_loses_the_old_one_later_fails_nobody() -> None:
    told = play("beside")
    assert {way: seen["failures"] for way, seen in told["loads"].items()} == {way: {} for way in told["loads"]}
    assert len(told["loads"]) == 3 and all(seen["new"] > 100 for seen in told["loads"].values())
    assert told["ready"] == ["True", "False", "True"], "so that pods are given the new address"
    assert told["unserved"] == [], "what was listed was served at every look"
    assert [swap[:2] for swap in told["swaps"]] == [["a", "b"], ["b", "a"]]


@pytest.mark.timeout(200)
def test_a_machine_whose_address_is_replaced_by_another_fails_nobody_at_an_address_that_stays() -> None:
    told = play("instead")
    assert {way: seen["failures"] for way, seen in told["loads"].items()} == {way: {} for way in told["loads"]}
    assert len(told["loads"]) == 2 and all(seen["new"] > 100 for seen in told["loads"].values())
    assert [swap[:2] for swap in told["swaps"]] == [["a", "b"]]
    assert told["reached"] < 20
