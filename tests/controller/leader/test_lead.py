"""Two controllers and one Lease on the sandbox's API server, in virtual time: one leads, the other does not write."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from exclave.api.requests import CONFIG_MAPS, LEASES, Object, Request, create, get, list_all, replace
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.http import AT_ONCE
from exclave.controller.leader.lead import Candidate, open_candidate
from exclave.errors import ClusterError
from support.mesh_cluster import running_apiserver

WALL = 1_800_000_000.0
PLACE = ("default", "exclave-controller")
BODY = {"metadata": {"name": "written"}, "data": {}}


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[Cluster]:
    async with running_apiserver(folder) as api, open_cluster(api.access, lambda: api.admin_token) as cluster:
        yield cluster


class Sleeper:
    """The clock of a machine that can be put to sleep."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return trio.current_time() + self.slept


def candidate(cluster: Cluster, me: str, clock: Sleeper | None = None):  # type: ignore[no-untyped-def]
    return open_candidate(cluster, *PLACE, me, lambda: WALL + trio.current_time(), clock or Sleeper())


async def wait_leads(one: Candidate) -> float:
    began = trio.current_time()
    with trio.fail_after(60):
        await one.leads.wait_for(bool)
    return trio.current_time() - began


async def holder(cluster: Cluster) -> str:
    return str((await cluster.send(get(LEASES, *PLACE)))["spec"]["holderIdentity"])


async def test_of_two_one_leads_for_as_long_as_it_lives(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_cluster(tmp_path) as cluster, candidate(cluster, "first") as first:
        await wait_leads(first)
        async with candidate(cluster, "second") as second:
            await trio.sleep(60)
            assert (first.leads.value, second.leads.value) == (True, False)
            assert await holder(cluster) == "first"


async def test_a_lease_of_another_shape_is_tried_again_until_it_can_be_read(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    malformed = {"metadata": {"resourceVersion": "1"}, "spec": ["x"]}

    class Damages:
        def __init__(self, cluster: Cluster) -> None:
            self._cluster, self.is_good = cluster, False

        async def send(self, request: Request, fence: object = None) -> Object:
            answer = await self._cluster.send(request)
            return answer if self.is_good or request.verb != "get" else malformed

    async with running_cluster(tmp_path) as cluster:
        await cluster.send(create(LEASES, PLACE[0], {"metadata": {"name": PLACE[1]}, "spec": {}}))
        damages = Damages(cluster)
        async with candidate(damages, "first") as first:  # type: ignore[arg-type]
            await trio.sleep(5)
            assert not first.leads.value
            damages.is_good = True
            await wait_leads(first)
    assert "election: failed and starts again in " in caplog.messages[0]


async def test_a_leader_that_ends_in_order_releases_its_lease(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with candidate(cluster, "first") as first:
            await wait_leads(first)
        assert await holder(cluster) == ""
        async with candidate(cluster, "second") as second:
            assert await wait_leads(second) < 1


class LosesAnswers:
    """A cluster that executes all requests, but never answers the next write."""

    def __init__(self, cluster: Cluster) -> None:
        self.written = trio.Event()
        self._cluster = cluster

    async def send(self, request: Request) -> Object:
        answer = await self._cluster.send(request)
        if request.verb != "get" and not self.written.is_set():
            self.written.set()
            await trio.sleep_forever()
        return answer


async def test_a_leader_that_ends_while_it_renews_releases_its_lease(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with candidate(cluster, "first") as first:
            await wait_leads(first)
            slow = LosesAnswers(cluster)
            first._cluster = slow  # type: ignore[assignment]
            await slow.written.wait()
        assert await holder(cluster) == ""
        async with candidate(cluster, "second") as second:
            assert await wait_leads(second) < 1


async def test_a_lease_that_somebody_else_holds_by_now_is_left_to_them(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running_cluster(tmp_path) as cluster:
        async with candidate(cluster, "first") as first:
            await wait_leads(first)
            found = await cluster.send(get(LEASES, *PLACE))
            found["spec"]["holderIdentity"] = "second"
            await cluster.send(replace(LEASES, *PLACE, found))
        assert await holder(cluster) == "second"
    assert any("the Lease was not released" in line for line in caplog.messages)


async def test_a_leader_that_slept_writes_nothing_and_steps_down(tmp_path: Path, autojump_clock: MockClock) -> None:
    clock = Sleeper()
    async with running_cluster(tmp_path) as cluster, candidate(cluster, "first", clock) as first:
        await wait_leads(first)
        await first.fenced.send(create(CONFIG_MAPS, "default", BODY))
        clock.slept = 20.0
        with pytest.raises(ClusterError) as refused:
            await first.fenced.send(create(CONFIG_MAPS, "default", {**BODY, "metadata": {"name": "late"}}))
        assert refused.value.message == "this controller leads no longer, so it does not create configmaps late"
        assert await first.fenced.send(list_all(CONFIG_MAPS, "default")), "reading is free"


async def test_a_write_that_waits_for_its_turn_is_not_sent_by_one_that_leads_no_longer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    clock = Sleeper()
    async with running_cluster(tmp_path) as cluster, candidate(cluster, "first", clock) as first:
        await wait_leads(first)
        room = cluster._exchange._room
        for _ in range(AT_ONCE):
            room.acquire_nowait()
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(ClusterError, match="this controller leads no longer"):
                    await first.fenced.send(create(CONFIG_MAPS, "default", BODY))

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            clock.slept = 20.0
            for _ in range(AT_ONCE):
                room.release()
        assert (await cluster.send(list_all(CONFIG_MAPS, "default")))["items"] == []


async def test_the_lease_of_a_silent_leader_is_acquired_after_its_duration(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with candidate(cluster, "first") as first:
            await wait_leads(first)
            first._renewed_at = None  # as after kill -9: nothing is given back
        assert await holder(cluster) == "first"
        async with candidate(cluster, "second") as second:
            assert 14 <= await wait_leads(second) <= 19
        assert (await cluster.send(get(LEASES, *PLACE)))["spec"]["leaseTransitions"] == 1
