"""What the stand-in shows of its controller, read as the agent reads linkerd2-proxy's metrics."""

from typing import Any

import pytest
import trio

from exclave.data_path.control_plane import ControllerSample, sample_controllers
from exclave_sandbox.standin.admin import Counts
from exclave_sandbox.standin.control import reaches, watch_controller
from exclave_sandbox.standin.lookup import LookupCache, Resolver


@pytest.fixture
def counts() -> Counts:
    return Counts()


async def shown(counts: Counts, connected: int) -> None:
    """Wait until the metrics say so."""
    with trio.fail_after(10):
        while sample_controllers("\n".join(counts.render())) != {"destination": ControllerSample(connected, 0, 0)}:  # noqa: ASYNC110  a page tells nobody
            await trio.sleep(0.01)


async def test_a_controller_that_comes_and_goes_is_seen_without_a_question(counts: Counts) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            listeners: Any = await trio.open_tcp_listeners(0, host="127.0.0.1")
            place = listeners[0].socket.getsockname()
            serving.start_soon(trio.serve_listeners, talk, listeners)
            lookups = LookupCache(Resolver(place, ""), 3600.0, trio.current_time)
            nursery.start_soon(watch_controller, Resolver(place, ""), lookups, counts)
            await shown(counts, 1)
            assert not lookups.is_away
            serving.cancel_scope.cancel()
        await shown(counts, 0)
        assert lookups.is_away
        nursery.cancel_scope.cancel()


async def test_a_name_that_nobody_knows_is_a_controller_that_is_away() -> None:
    assert not await reaches(Resolver(("linkerd-dst-headless.linkerd.svc.cluster.local.", 8086), ""))
