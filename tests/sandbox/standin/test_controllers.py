"""The stand-in's connections to Linkerd's controllers, over real sockets, and the metrics that show them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.data_path.control_plane import ControllerSample, sample_controllers
from exclave.proxy.environment import proxy_environment
from exclave_sandbox.standin.admin import Counts
from exclave_sandbox.standin.controllers import ask_for_policies, reaches, watch_controller
from exclave_sandbox.standin.lookup import Resolver
from exclave_sandbox.standin.settings import read_environment
from support.member import ADDRESS, make_settings

ENVIRONMENT = proxy_environment(
    make_settings(), "web-1", (ADDRESS,), "a", Path("/run/w.sock"), "info", drain=5.0, families=(4,)
)


class Controller:
    """Answers with a status; `asked` are the request targets."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []

    async def talk(self, stream: trio.SocketStream) -> None:
        head = await stream.receive_some()
        self.asked.append(head.split()[1].decode())
        await stream.send_all(f"HTTP/1.1 {self.status} X\r\nContent-Length: 2\r\n\r\n{{}}".encode())


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Controller, Counts, trio.Event, set[int]]]:
    """The controller, and a stand-in that asks it once it is certified."""
    controller, counts, certified, policies = Controller(), Counts(), trio.Event(), set[int]()
    settings = read_environment(ENVIRONMENT)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, controller.talk, listeners)
        resolver = Resolver(listeners[0].socket.getsockname()[:2], "")
        nursery.start_soon(ask_for_policies, settings, resolver, counts, certified, policies)
        yield controller, counts, certified, policies
        nursery.cancel_scope.cancel()


def arrived(counts: Counts) -> int:
    """Answers, by the name that linkerd2-proxy gives to the first message of a stream."""
    lines = [line for line in counts.render() if line.startswith("control_response_latency_ms_count{")]
    ours = [line for line in lines if 'addr="linkerd-policy.linkerd.svc.cluster.local.:8090",status_code="200"' in line]
    return sum(int(line.split()[-1]) for line in ours)


async def until_arrived(counts: Counts, wanted: int) -> None:
    with trio.fail_after(10):
        while arrived(counts) < wanted:
            await trio.lowlevel.checkpoint()


async def test_it_asks_for_every_port_once_it_is_certified_and_counts_the_answers() -> None:
    async with asking() as (controller, counts, certified, policies):
        await trio.testing.wait_all_tasks_blocked()
        assert controller.asked == []
        certified.set()
        await until_arrived(counts, 2)
        assert policies == {4191, 8080}
        assert sorted(controller.asked) == ["/policy?port=4191", "/policy?port=8080"]


async def test_a_question_without_a_good_answer_is_repeated() -> None:
    async with asking() as (controller, counts, certified, policies):
        controller.status = 500
        certified.set()
        with trio.fail_after(10):
            while len(controller.asked) < 3:
                await trio.lowlevel.checkpoint()
        assert (arrived(counts), policies) == (0, set())
        controller.status = 200
        await until_arrived(counts, 2)


@pytest.fixture
def counts() -> Counts:
    return Counts()


async def wait_shown(counts: Counts, connected: int) -> None:
    """Wait until the metrics show so many connections."""
    with trio.fail_after(10):
        while sample_controllers("\n".join(counts.render())) != {"destination": ControllerSample(connected, 0, 0)}:  # noqa: ASYNC110  a page sends no event
            await trio.sleep(0.01)


async def test_a_controller_that_comes_and_goes_is_noticed_without_a_lookup(counts: Counts) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            listeners: Any = await trio.open_tcp_listeners(0, host="127.0.0.1")
            place = listeners[0].socket.getsockname()
            serving.start_soon(trio.serve_listeners, talk, listeners)
            nursery.start_soon(watch_controller, Resolver(place, ""), counts)
            await wait_shown(counts, 1)
            serving.cancel_scope.cancel()
        await wait_shown(counts, 0)
        nursery.cancel_scope.cancel()


async def test_a_name_without_an_address_is_a_controller_that_is_away() -> None:
    assert not await reaches(Resolver(("linkerd-dst-headless.linkerd.svc.cluster.local.", 8086), ""))
