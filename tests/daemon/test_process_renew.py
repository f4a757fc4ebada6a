"""What the agent answers to `exclave renew`."""

import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.daemon.process import REPORT_INTERVAL
from exclave.ending import Ending
from exclave.errors import ClusterError, ExclaveError, Fault
from exclave.identity.rotator import TooSoonError
from exclave.identity.svid import Svid
from exclave.kit.formats.times import rfc3339
from support.mesh import mesh

from .agent_world import World

RENEWING = {"renewing": True}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


class Renewing:
    """An identity whose renewal takes a while, and ends as it is told."""

    def __init__(self, outcome: Svid | TooSoonError | ExclaveError, seconds: float = 2 * REPORT_INTERVAL - 1) -> None:
        self._outcome = outcome
        self._seconds = seconds

    async def renew_now(self) -> Svid:
        await trio.sleep(self._seconds)
        if isinstance(self._outcome, Svid):
            return self._outcome
        raise self._outcome


async def ask(world: World, identity: Any) -> list[dict[str, Any]]:
    world.boots[0].identity = identity
    return await world.ask("renew")


async def test_the_client_gets_a_sign_of_life_and_then_the_outcome(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    svid = mesh().svid(time.time())
    refused = ClusterError(Fault.NOT_ADMITTED, "the controller has signed nothing for 60 s", "check")
    async with world.living():
        assert await ask(world, Renewing(svid)) == [
            RENEWING,
            RENEWING,
            {"renewed": {"serial": f"{svid.serial:x}", "notAfter": rfc3339(svid.not_after)}},
        ]
        assert (await ask(world, Renewing(TooSoonError(12.1))))[-1] == {"tooSoon": 13}
        assert (await ask(world, Renewing(refused)))[-1] == {
            "error": {
                "code": 26,
                "word": "not-admitted",
                "message": "the controller has signed nothing for 60 s",
                "hint": "check",
            }
        }


async def test_without_a_membership_and_during_the_start_nothing_can_be_renewed(world: World) -> None:
    expected = "no certificate can be renewed now: this machine is no member, is starting or is leaving"
    async with world.living(None):
        assert [one["error"]["message"] for one in await world.ask("renew")] == [expected]
    async with world.living():
        assert [one["error"]["message"] for one in await world.ask("renew")] == [expected]


async def test_a_boot_that_ends_meanwhile_is_an_error(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with world.living() as nursery:

        async def leave() -> None:
            await trio.sleep(REPORT_INTERVAL + 1)
            world.boots[0].endings.ask_nowait(Ending.STOP)

        nursery.start_soon(leave)
        svid = mesh().svid(time.time())
        *reports, last = await ask(world, Renewing(svid, seconds=1000.0))
        assert (reports, last["error"]["code"], last["error"]["message"]) == (
            [RENEWING, RENEWING],
            35,
            "the agent is ending",
        )
