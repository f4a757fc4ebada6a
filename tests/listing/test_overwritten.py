"""What is written when another machine, a copy of this one, overwrites `serving` at once, in virtual time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import trio
import trio.testing

from exclave.api.requests import MEMBERS
from exclave.cluster.watch import Upserted
from exclave.confirm.confirm import Confirmation, Stage
from exclave.member.write_limit import PAUSES
from listing.data_path_world import World
from support.mesh import MEMBER, NAMESPACE


@asynccontextmanager
async def overwriting(world: World) -> AsyncIterator[list[float]]:
    """Another machine does not serve. The list gets the times at which this one has written that it serves."""
    times: list[float] = []

    async def overwrite() -> None:
        async with world.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for event in events:
                assert isinstance(event, Upserted)
                if event.object["spec"]["serving"]:
                    times.append(trio.current_time())
                    await trio.sleep(0.1)
                    other = {"spec": {"serving": False, "dataPath": "down"}}
                    world.cluster.change(MEMBERS, NAMESPACE, MEMBER, other)

    async with world.listed(), trio.open_nursery() as nursery:
        nursery.start_soon(overwrite)
        yield times
        nursery.cancel_scope.cancel()


async def test_it_is_written_again_with_growing_pauses(world: Callable[[], World]) -> None:
    made = world()
    async with overwriting(made) as times:
        await trio.sleep(3600)
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert len(times) > 10, "this machine does not give up"
        assert all(pause >= PAUSES.pause(number, 0.0) for number, pause in enumerate(pauses))
        conditions = made.cluster.trace.count(f"patch externalworkloads/status {MEMBER}")
        assert conditions <= 2 * len(times) + 1, "Ready follows what is listed"


async def test_another_value_is_written_at_once(world: Callable[[], World]) -> None:
    made = world()
    async with overwriting(made) as times:
        await trio.sleep(600)
        assert trio.current_time() - times[-1] < PAUSES.pause(len(times) - 1, 0.0) - 2, "the pause is not over"
        made.confirming.view.set(Confirmation(Stage.WITHDRAWING, 60.0, 75.0))
        await trio.sleep(1)
        found = made.cluster.find(MEMBERS, NAMESPACE, MEMBER)
        assert found is not None and found["spec"]["dataPath"] == "outbound-open"
