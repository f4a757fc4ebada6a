"""Renewals that somebody requests, by command or in the Member."""

from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.api.member import Renewal, view_member
from exclave.api.names import RENEW
from exclave.api.requests import MEMBERS
from exclave.errors import ClusterError, Fault
from exclave.identity.rotator import (
    REQUEST_INTERVAL,
    TooSoonError,
)
from exclave.kit.formats.times import rfc3339
from support.mesh import MEMBER, NAMESPACE

from .rotator_world import World, serial


async def test_a_requested_renewal_is_carried_out_at_most_once_a_minute(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        with pytest.raises(TooSoonError) as raised:
            await identity.renew_now()
        assert raised.value.left == REQUEST_INTERVAL
        await trio.sleep(REQUEST_INTERVAL)
        before = identity.svid.value
        renewed = await identity.renew_now()
        assert before is not None
        assert (renewed.serial, renewed is identity.svid.value, renewed.key != before.key) == (2, True, True)
        for _ in range(100):
            with pytest.raises(TooSoonError):
                await identity.renew_now()
    async with world.identity() as identity:  # also after a restart
        with pytest.raises(TooSoonError):
            await identity.renew_now()
        world.jumped -= REQUEST_INTERVAL / 2  # a clock that was ahead
        assert (await identity.renew_now()).serial == 3
    assert len(world.signed) == 3


async def test_requests_during_a_renewal_get_its_outcome(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        await trio.sleep(REQUEST_INTERVAL)
        found = []

        async def request() -> None:
            found.append((await identity.renew_now()).serial)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(request)
    assert (found, len(world.signed)) == ([2] * 5, 2)


@pytest.mark.parametrize(
    ("reachable", "fault", "message"),
    [
        (True, Fault.NOT_ADMITTED, "the controller has signed nothing for 60 s"),
        (False, Fault.UNREACHABLE, "the API server has not answered for 60 s"),
    ],
)
async def test_a_requested_renewal_that_fails_raises_the_reason_and_is_tried_at_once_when_asked_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, reachable: bool, fault: Fault, message: str
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
    async with world.identity(signs=False) as identity, trio.open_nursery() as nursery:
        await trio.sleep(REQUEST_INTERVAL)
        world.cluster.reachable.set(reachable)
        began = trio.current_time()
        with pytest.raises(ClusterError) as raised:
            await identity.renew_now()
        assert (raised.value.fault, raised.value.message, trio.current_time() - began) == (fault, message, 60.0)
        assert identity.svid.value is not None and identity.svid.value.serial == 1
        nursery.start_soon(world.keep_signing)
        assert (await identity.renew_now()).serial == 2
        assert trio.current_time() - began == 60.0, "the pause after a failure was not waited for"
        nursery.cancel_scope.cancel()


async def test_a_request_in_the_member_is_answered_once_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)

    async def ask(request: str) -> Renewal | None:
        world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"metadata": {"annotations": {RENEW: request}}})
        await trio.sleep(1)
        return view_member(world.cluster.find(MEMBERS, NAMESPACE, MEMBER) or {}).renewal

    async with world.identity() as identity:
        await serial(identity, 1)
        assert identity.svid.value is not None
        soon = Renewal("r1", "too-soon", "a certificate was signed less than 60 s ago: ask again in 60 s")
        assert await ask("r1") == soon
        await trio.sleep(REQUEST_INTERVAL)
        assert await ask("x" * 65) == soon, "a request that is too long is ignored"
        renewed = await ask("r2")
        assert renewed == Renewal("r2", "renewed", f"the certificate ends at {rfc3339(identity.svid.value.not_after)}")
        await trio.sleep(REQUEST_INTERVAL)
    writes = len(world.cluster.trace)
    async with world.identity() as identity:  # the next agent
        await trio.sleep(1)
        assert view_member(world.cluster.find(MEMBERS, NAMESPACE, MEMBER) or {}).renewal == renewed
    assert len(world.signed) == 2
    assert [one for one in world.cluster.trace[writes:] if one.startswith("patch members")] == []
