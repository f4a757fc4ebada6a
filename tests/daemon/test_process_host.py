"""An agent on a host that cannot be a member for a while: it waits, shows why, and goes on."""

from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.daemon.process import HOST_RETRIES
from exclave.ending import Ending
from exclave.errors import MAY_HEAL, Fault, HostError, error_object
from exclave.member.record import store_membership
from support.mesh import RECORD

from .agent_world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


NO_NFT = HostError(Fault.NFT_UNUSABLE, "the program nft cannot be run", "install it: apt install nftables")


@pytest.mark.parametrize("fault", MAY_HEAL)
async def test_a_members_agent_tries_again_on_a_host_that_may_heal(
    fault: Fault, world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.host_error = HostError(fault, "the host is broken", "repair it")
    async with world.living():
        (status,) = await world.ask("status")
        assert (status["state"], status["member"]["name"]) == ("starting", RECORD.member)
        assert [(each["code"], each["message"], each["hint"]) for each in status["problems"]] == [
            (fault.word, "the host is broken", "repair it")
        ]
        assert world.statuses[-1] == "starting, member shop/web-k7q2x-1; problem: the host is broken"
        await trio.sleep(3600)
        assert world.trace == ["READY=1"]
        world.host_error = None
        await trio.sleep(HOST_RETRIES.most)
        assert world.trace == ["READY=1", f"boot {RECORD.member}"]


@pytest.mark.parametrize("fault", [Fault.NO_PRIVILEGE, Fault.DISK])
async def test_other_faults_of_the_host_end_the_agent(fault: Fault, world: World) -> None:
    world.host_error = HostError(fault, "the host is broken", "repair it")
    store_membership(world.state, RECORD)
    with pytest.raises(HostError):
        await world.agent.run()


async def test_an_agent_that_waits_for_its_host_ends_when_it_has_to(world: World) -> None:
    world.host_error = NO_NFT
    store_membership(world.state, RECORD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.agent.run)
        await trio.testing.wait_all_tasks_blocked()
        world.agent.end(Ending.STOP)
    assert world.trace[:2] == ["READY=1", "STOPPING=1"]


async def test_a_leave_that_fails_because_of_the_host_is_answered_and_tried_again(
    world: World, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise NO_NFT

    world.host_error = NO_NFT
    async with world.living():
        with monkeypatch.context() as patched:
            patched.setattr("exclave.daemon.process.depart", fail)
            answers = await world.ask("leave")
        assert answers[-1] == error_object(31, "nft-unusable", NO_NFT.message, NO_NFT.hint)
        await trio.sleep(2 * HOST_RETRIES.most)
    assert world.trace == ["READY=1", f"departs {RECORD.member}"]
