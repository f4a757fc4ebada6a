"""A member's life with its cluster, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, LEASES, MEMBERS, Resource
from exclave.api.settings import digest, render_settings
from exclave.config import Config, MemberConfig, Paths
from exclave.ending import Ending, EndingSwitch
from exclave.errors import ApiRefusal
from exclave.member import addresses
from exclave.member.addresses import Found
from exclave.member.client import GONE_APART, MemberClient, open_member
from exclave.member.record import load_eviction, load_membership, load_settings, store_membership, store_settings
from exclave.member.state import ASK_ORPHAN_EVERY, Standing
from support.mesh import ADDRESS, MEMBER, NAMESPACE, RECORD, make_settings, publish, put_member
from support.store import StoreCluster

START = 1_800_000_000.0
SETTINGS = make_settings()


def virtual_now() -> float:
    return START + trio.current_time()


class World:
    """A cluster with one member, and that member's folders."""

    def __init__(self, folder: Path) -> None:
        self.cluster = StoreCluster(virtual_now)
        put_member(self.cluster, SETTINGS)
        paths = Paths(folder / "state", folder / "run")
        for path in (paths.state, paths.runtime):
            path.mkdir()
        self.state = paths.state
        self.config = Config(paths=paths, member=MemberConfig(ADDRESS))
        self.endings = EndingSwitch()
        store_membership(self.state, RECORD)

    @asynccontextmanager
    async def member(self) -> AsyncIterator[MemberClient]:
        async with open_member(RECORD, self.config, self.cluster, self.endings, virtual_now) as membership:  # type: ignore[arg-type]
            yield membership

    def delete(self, *resources: Resource) -> None:
        """Delete this member's objects of these kinds for good, as if nobody had to release them."""
        for resource in resources:
            self.cluster.change(resource, NAMESPACE, MEMBER, {"metadata": {"finalizers": None}})
            self.cluster.remove(resource, NAMESPACE, MEMBER)

    def write_settings(self, text: str) -> None:
        """Replace the settings in the ConfigMap."""
        self.cluster.change(CONFIG_MAPS, NAMESPACE, settings_name("web"), {"data": {SETTINGS_KEY: text}})

    def name_settings(self, text: str) -> None:
        """Name these settings in the Member, as the controller does."""
        self.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": {"settings": digest(text)}}, "status")

    def lease(self) -> dict[str, Any]:
        found = self.cluster.find(LEASES, NAMESPACE, MEMBER)
        assert found is not None
        spec: dict[str, Any] = found["spec"]
        return spec

    def status_of_workload(self) -> dict[str, Any]:
        found = self.cluster.find(EXTERNAL_WORKLOADS, NAMESPACE, MEMBER)
        assert found is not None
        status: dict[str, Any] = found.get("status", {})
        return status


async def test_a_member_starts_from_disk_while_the_api_server_is_away(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    store_settings(world.state, render_settings(SETTINGS))
    world.cluster.away.set(True)
    async with world.member() as member:
        assert member.settings.value == SETTINGS
        assert member.captured.value == (ADDRESS,)
        assert member.heartbeat_age() is None


async def test_local_addresses_that_stand_for_the_own_one_are_captured_and_not_registered(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    world.config = Config(paths=world.config.paths, member=MemberConfig(ADDRESS, ("127.0.0.1", ADDRESS)))
    async with world.member() as member:
        assert member.captured.value == (ADDRESS, "127.0.0.1")
        assert member.record.address == ADDRESS
        assert member.local_address == "127.0.0.1"  # as behind a NAT: the own one is not on any link here


async def test_settings_are_fetched_stored_and_published_when_the_member_names_others(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        assert await member.settings.wait_for(lambda settings: settings is not None) == SETTINGS
        newer = make_settings(capture="all")
        publish(world.cluster, newer)
        assert await member.settings.wait_for(lambda settings: settings != SETTINGS) == newer
        assert load_settings(world.state) == (newer, digest(render_settings(newer)))
        assert member.settings_digest == digest(render_settings(newer))
        await trio.sleep(100)
        assert world.cluster.trace.count("get configmaps exclave-mesh.web") == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param('{"version": 9}', "settings version 9: this agent reads version 1", id="another version"),
        pytest.param(
            render_settings(SETTINGS).replace('"heartbeat":10.0', '"heartbeat":null'),
            "heartbeat: a number from 1 to 31536000000 was expected, found None",
            id="no heartbeat",
        ),
        pytest.param(
            render_settings(SETTINGS).replace('"heartbeat":10.0', '"heartbeat":0'),
            "heartbeat: a number from 1 to 31536000000 was expected, found 0",
            id="heartbeats without a pause",
        ),
        pytest.param(
            render_settings(SETTINGS).replace('"dns":[]', '"dns":null'),
            "controlPlane.dns: list was expected, found NoneType",
            id="no list of addresses",
        ),
    ],
)
async def test_settings_that_cannot_be_read_leave_the_last_good_ones(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, text: str, why: str
) -> None:
    world = World(tmp_path)
    store_settings(world.state, render_settings(SETTINGS))
    async with world.member() as member:
        world.write_settings(text)
        world.name_settings(text)
        problem = await member.problem.wait_for(lambda problem: problem is not None)
        assert problem == f"new settings cannot be used, the last good ones stay in use: {why}"
        assert member.settings.value == SETTINGS and load_settings(world.state) is not None
        publish(world.cluster, make_settings(capture="none"))
        await member.problem.wait_for(lambda problem: problem is None)


async def test_settings_that_the_controller_did_not_write_are_never_used(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    store_settings(world.state, render_settings(SETTINGS))
    async with world.member() as member:
        newer, forged = make_settings(capture="all"), make_settings(capture="none")
        world.write_settings(render_settings(forged))
        world.name_settings(render_settings(newer))
        problem = await member.problem.wait_for(lambda problem: problem is not None)
        assert problem == (
            "new settings cannot be used, the last good ones stay in use: ConfigMap exclave-mesh.web holds other "
            "settings than the controller has written: find out who changes it"
        )
        assert member.settings.value == SETTINGS
        publish(world.cluster, newer)
        assert await member.settings.wait_for(lambda settings: settings != SETTINGS) == newer
        await member.problem.wait_for(lambda problem: problem is None)


async def test_settings_that_are_newer_than_the_member_for_some_seconds_are_no_problem(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    store_settings(world.state, render_settings(SETTINGS))
    async with world.member() as member:
        first, second = make_settings(capture="all"), make_settings(capture="none")
        world.write_settings(render_settings(second))
        for settings in (first, second):
            world.name_settings(render_settings(settings))
            await trio.sleep(5)
        assert (member.settings.value, member.problem.value) == (second, None)


async def test_heartbeats_come_every_ten_seconds_under_one_name(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(35)
        assert world.cluster.trace.count(f"patch leases {MEMBER}") == 4
        assert member.heartbeat_age() == pytest.approx(5)
        holder = world.lease()["holderIdentity"]
        assert holder.count(".") == 1
        world.cluster.away.set(True)
        await trio.sleep(60)
        assert member.heartbeat_age() == pytest.approx(65)
        world.cluster.away.set(False)
        await trio.sleep(10)
        assert member.heartbeat_age() == pytest.approx(5)
        assert world.lease()["holderIdentity"] == holder
    async with world.member():
        assert world.lease()["holderIdentity"] == holder  # the same boot


@pytest.mark.parametrize(("status", "is_silent"), [(403, True), (404, True), (401, False), (None, False)])
async def test_heartbeats_that_are_refused_as_long_as_the_controller_waits_are_a_silence(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, status: int | None, *, is_silent: bool
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(5)
        if status is None:
            world.cluster.away.set(True)  # then the controller does not learn of anybody
        world.cluster.refused.set(status)
        await trio.sleep(22)
        assert member.silence.value is None, "two are not enough"
        await trio.sleep(8)
        assert (member.silence.value or "").startswith("the cluster refuses this machine's heartbeats: ") is is_silent
        world.cluster.refused.set(None)
        world.cluster.away.set(False)
        await member.silence.wait_for(lambda silence: silence is None)


async def test_what_can_wait_travels_with_the_next_patch_and_only_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        member.patch_later({"loaded": {"agent": "1"}})
        assert world.cluster.trace.count(f"patch members {MEMBER}") == 0
        await member.patch_spec({"serving": True})
        await member.patch_spec({})
        assert world.cluster.trace.count(f"patch members {MEMBER}") == 1
        view = await member.view.wait_for(lambda view: view is not None and view.serving)
        assert view is not None and dict(view.loaded) == {"agent": "1"}


async def test_readiness_is_one_condition_whose_time_moves_with_its_status(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await member.set_ready(False, "NotServing", "no proxy")
        first = world.status_of_workload()["conditions"]
        assert [condition["type"] for condition in first] == ["Ready"]
        await trio.sleep(10)
        await member.set_ready(False, "ProbeFailed", "tcp 8080")
        (second,) = world.status_of_workload()["conditions"]
        assert second["lastTransitionTime"] == first[0]["lastTransitionTime"]
        assert (second["status"], second["reason"], second["message"]) == ("False", "ProbeFailed", "tcp 8080")
        await member.set_ready(True, "Ready", "probes pass")
        (third,) = world.status_of_workload()["conditions"]
        assert third["status"] == "True" and third["lastTransitionTime"] != second["lastTransitionTime"]


async def test_readiness_without_an_external_workload_is_a_refusal(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    world.cluster.remove(EXTERNAL_WORKLOADS, NAMESPACE, MEMBER)
    async with world.member() as member:
        with pytest.raises(ApiRefusal) as caught:
            await member.set_ready(True, "Ready", "")
        assert caught.value.status == 404


async def test_connections_from_an_address_that_is_gone_are_dropped(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    route = [ADDRESS]

    def find(*_: Any) -> Found:
        return Found(route[0], "route")

    monkeypatch.setattr(addresses, "find_address", find)
    async with world.member() as member:
        await trio.sleep(15)
        assert "start afresh" not in world.cluster.trace
        world.cluster.away.set(True)  # as it seems from an address that is gone
        route[0] = "10.77.0.21"
        await trio.sleep(15)
        assert world.cluster.trace[-1] == "start afresh"
        assert member.found.value == "10.77.0.21"


async def test_connections_are_dropped_when_an_address_goes_that_was_left_before(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may still be from there, since nothing opens them anew when routes change."""
    world, other = World(tmp_path), "10.77.0.21"
    here = {ADDRESS, other}
    monkeypatch.setattr(addresses, "on_this_machine", lambda asked: frozenset(asked) & here)

    def find(*_: Any) -> Found:
        return Found(ADDRESS if ADDRESS in here and not is_left else other, "route")

    is_left = False
    monkeypatch.setattr(addresses, "find_address", find)
    async with world.member() as member:
        await trio.sleep(15)
        is_left = True
        await member.found.wait_for(lambda found: found == other)
        await trio.sleep(60)
        assert "start afresh" not in world.cluster.trace
        here.remove(ADDRESS)
        await trio.sleep(15)
        assert world.cluster.trace.count("start afresh") == 1


async def test_an_address_is_claimed_on_disk_with_the_one_before_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        member.set_address("10.77.0.21", ADDRESS)
        assert load_membership(world.state) == replace(RECORD, address="10.77.0.21", former=ADDRESS)
        member.set_served_addresses(("10.77.0.21", ADDRESS))
        assert member.captured.value == ("10.77.0.21", ADDRESS)


async def test_listed_addresses_are_read_where_a_machine_may_read(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        assert await member.read_listed_addresses() == frozenset()
        spec = {"spec": {"workloadIPs": [{"ip": ADDRESS}]}}
        world.cluster.change(EXTERNAL_WORKLOADS, NAMESPACE, MEMBER, spec)
        assert await member.read_listed_addresses() == {ADDRESS}
        assert world.cluster.trace[-1] == f"get externalworkloads/status {MEMBER}"


async def test_another_address_is_found_as_soon_as_the_agent_starts(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    world.config = Config(paths=world.config.paths, member=MemberConfig("10.77.0.21"))
    async with world.member() as member:
        assert member.found.value == "10.77.0.21"
        assert member.captured.value == ("10.77.0.21",)  # the one before it is not on any link here
        assert load_membership(world.state) == RECORD  # nobody was told yet


async def test_changed_facts_are_patched_once_and_missing_ones_are_removed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    world.config = replace(world.config, member=MemberConfig(ADDRESS, zone="eu-1a"))
    world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"spec": {"facts": {"flavour": "small", "zone": "eu-1b"}}})
    async with world.member() as member:
        view = await member.view.wait_for(lambda view: view is not None and view.facts.get("zone") == "eu-1a")
        assert view is not None and "flavour" not in view.facts and view.facts["agent"]
    seen = len(world.cluster.trace)
    async with world.member() as member:
        await trio.sleep(1)
    assert not any(one.startswith("patch") and "member" in one for one in world.cluster.trace[seen:])


async def test_a_deleted_member_is_evicted_and_writes_nothing_more(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(1)
        world.cluster.remove(MEMBERS, NAMESPACE, MEMBER)
        await member.standing.wait_for(lambda standing: standing is Standing.EVICTED)
        world.endings.ask_nowait(Ending.LEAVE)
        seen = len(world.cluster.trace)
    assert world.cluster.trace[seen:] == []
    assert load_membership(world.state) is None and load_settings(world.state) is None
    note = load_eviction(world.state)
    assert note is not None and (note.member, note.at) == (MEMBER, START + 1)


@pytest.mark.parametrize("is_read", [True, False], ids=["reads", "the watch"])
async def test_a_member_that_is_not_found_for_a_while_stays_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, *, is_read: bool
) -> None:
    """As at an API server that is behind, or whose etcd was restored and then replaced."""
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(1)
        world.delete(MEMBERS, EXTERNAL_WORKLOADS, LEASES)
        await trio.sleep(1.5 * GONE_APART if is_read else 0.1)
        put_member(world.cluster, SETTINGS)
        await trio.sleep(60)
        assert member.standing.value is Standing.MEMBER
        assert member.view.value is not None
    assert load_membership(world.state) is not None


async def test_a_member_that_is_gone_with_its_account_is_an_orphan_that_asks_rarely(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The account is deleted first, so nobody can read that the Member is gone."""
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(1)
        world.cluster.refused.set(401)
        world.delete(MEMBERS)
        await member.standing.wait_for(lambda standing: standing is Standing.ORPHANED)
        await trio.sleep(60)
        requests = world.cluster.requests
        await trio.sleep(3 * ASK_ORPHAN_EVERY)
        assert world.cluster.requests - requests <= 2 * 3
        assert load_membership(world.state) is not None


@pytest.mark.parametrize("status", [401, 403, 409, 410, 418, 429, 500, 503])
async def test_no_other_answer_proves_that_a_member_is_gone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, status: int
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(1)
        world.cluster.refused.set(status)
        world.delete(MEMBERS)
        await trio.sleep(600)
        assert member.standing.value is not Standing.EVICTED
        assert load_membership(world.state) is not None
        world.cluster.refused.set(None)
        await member.standing.wait_for(lambda standing: standing is Standing.EVICTED)


async def test_a_member_that_is_gone_was_evicted(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        world.delete(MEMBERS)
        await member.standing.wait_for(lambda standing: standing is Standing.EVICTED)


async def test_a_credential_refused_for_half_a_minute_makes_an_orphan_that_comes_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await trio.sleep(1)
        world.cluster.refused.set(401)
        await trio.sleep(35)
        assert member.standing.value is Standing.MEMBER  # the first refusal came with the heartbeat at 10 s
        await trio.sleep(5)
        assert member.standing.value is Standing.ORPHANED
        world.cluster.refused.set(None)
        await member.standing.wait_for(lambda standing: standing is Standing.MEMBER)
        assert trio.current_time() < 400


async def test_a_server_that_has_just_started_and_refuses_is_tried_again_soon(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    world.cluster.refused.set(403)
    async with world.member() as member:
        await trio.sleep(5)
        world.cluster.refused.set(None)
        await member.view.wait_for(bool)
        assert trio.current_time() < 15
        assert member.standing.value is Standing.MEMBER


async def test_an_outage_makes_no_orphan(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        world.cluster.away.set(True)
        await trio.sleep(600)
        assert member.standing.value is Standing.MEMBER


async def test_leaving_deletes_the_member_then_what_is_on_disk(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await member.settings.wait_for(lambda settings: settings is not None)
        member.mark_leaving()
        stored = load_membership(world.state)
        assert stored is not None and stored.leaving
        world.endings.ask_nowait(Ending.LEAVE)
    assert world.cluster.trace[-1] == f"delete members {MEMBER}"
    assert list(world.state.iterdir()) == []
    assert member.remains == []


async def test_leaving_without_an_api_server_removes_the_files_and_reports_what_remains(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        world.cluster.away.set(True)
        world.endings.ask_nowait(Ending.LEAVE)
    assert member.remains == [f"Member {NAMESPACE}/{MEMBER}"]
    assert load_membership(world.state) is None


async def test_stopping_sends_a_last_heartbeat_and_removes_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.member() as member:
        await member.settings.wait_for(lambda settings: settings is not None)
        await trio.sleep(5)
        world.endings.ask_nowait(Ending.STOP)
    assert world.cluster.trace[-1] == f"patch leases {MEMBER}"
    assert load_membership(world.state) == RECORD and load_settings(world.state) is not None


async def test_handing_over_writes_nothing(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(tmp_path)
    async with world.member():
        await trio.sleep(5)
        seen = len(world.cluster.trace)
    assert len(world.cluster.trace) == seen
    assert load_membership(world.state) == RECORD
