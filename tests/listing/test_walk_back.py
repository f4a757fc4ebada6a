"""How the ports of a machine that leaves or stops are withdrawn, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.member import MemberView
from exclave.ending import Ending
from exclave.errors import ApiRefusal
from exclave.kit.tasks.latest import Latest
from exclave.listing.serving import walk_back
from exclave.member.state import Standing

GOLDEN = Path(__file__).parent / "golden"

LISTED = MemberView("m", serving=True, workload_uid="uid-1", workload_ports=(8080,))


class Cluster:
    """A MemberClient as far as leaving needs it, and a controller that withdraws ports a second after it hears."""

    def __init__(self, view: MemberView | None, *, hears: bool = True, refuses: bool = False) -> None:
        self.view: Latest[MemberView | None] = Latest(view)
        self.standing = Latest(Standing.MEMBER)
        self.trace: list[str] = []
        self.heard = trio.Event()  # that the machine does not serve any more
        self._hears = hears
        self._refuses = refuses

    def note(self, line: str) -> None:
        self.trace.append(f"{trio.current_time():5.1f} s  {line}")

    async def set_ready(self, ready: bool, reason: str, message: str) -> None:
        await self._answer()
        self.note(f"Ready={ready} {reason}: {message}")

    async def patch_spec(self, fields: dict[str, Any]) -> None:
        await self._answer()
        self.note(" ".join(f"{key}={value}" for key, value in fields.items()))
        self.heard.set()

    async def _answer(self) -> None:
        if self._refuses:
            raise ApiRefusal(401, "Unauthorized", "the credential is not accepted", "join again")
        if not self._hears:
            await trio.sleep_forever()
        await trio.sleep(0.1)

    async def withdraw(self) -> None:
        await trio.sleep(1)
        self.note("the controller empties the ports")
        self.view.set(MemberView("m", serving=False, workload_uid="uid-1"))


@asynccontextmanager
async def walking(cluster: Cluster, ending: Ending) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:

        async def walk() -> None:
            await walk_back(cluster, ending, 10.0)  # type: ignore[arg-type]
            cluster.note("rules may go")

        nursery.start_soon(walk)
        yield


def check(name: str, trace: list[str]) -> None:
    expected = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    assert trace == expected


@pytest.mark.parametrize("ending", [Ending.LEAVE, Ending.STOP])
async def test_pods_have_had_time_to_learn_of_it_when_the_ports_are_withdrawn(
    ending: Ending, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = Cluster(LISTED)
    async with walking(cluster, ending):
        await cluster.heard.wait()
        await cluster.withdraw()
    check(f"{ending.value}.txt", cluster.trace)


async def test_a_cluster_that_is_away_holds_nobody_up(autojump_clock: trio.testing.MockClock) -> None:
    cluster = Cluster(LISTED, hears=False)
    async with walking(cluster, Ending.STOP):
        pass
    check("away.txt", cluster.trace)


async def test_an_evicted_member_writes_nothing_and_waits_for_the_controller(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = Cluster(LISTED)
    cluster.standing.set(Standing.EVICTED)
    async with walking(cluster, Ending.LEAVE):
        await cluster.withdraw()
    check("evicted.txt", cluster.trace)


async def test_an_evicted_member_that_is_gone_waits_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    cluster = Cluster(LISTED)
    cluster.standing.set(Standing.EVICTED)
    async with walking(cluster, Ending.LEAVE):
        await trio.sleep(3)
        cluster.view.set(None)
    assert cluster.trace == [" 10.0 s  rules may go"]


async def test_a_refused_credential_is_not_argued_with(autojump_clock: trio.testing.MockClock) -> None:
    cluster = Cluster(LISTED, refuses=True)
    async with walking(cluster, Ending.LEAVE):
        pass
    assert cluster.trace == [" 10.0 s  rules may go"]


async def test_a_member_that_was_never_listed_waits_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    cluster = Cluster(MemberView("m", workload_uid="uid-1"))
    async with walking(cluster, Ending.STOP):
        pass
    assert cluster.trace == [
        "  0.1 s  Ready=False Stopped: this machine withdraws from the mesh",
        "  0.1 s  rules may go",
    ]


async def test_a_hand_over_writes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    cluster = Cluster(LISTED)
    async with walking(cluster, Ending.HAND_OVER):
        pass
    assert cluster.trace == ["  0.0 s  rules may go"]
