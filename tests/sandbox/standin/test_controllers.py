"""Look-ups of destinations and policies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.data_path.control_plane import ControllerSample, sample_controllers
from exclave.dns.server import open_dns
from exclave.kit.tasks.latest import Latest
from exclave.proxy.environment import proxy_environment
from exclave_sandbox.linkerd.destination_table import MeshEndpoint, NoEndpoints
from exclave_sandbox.standin.admin import Counts
from exclave_sandbox.standin.controllers import (
    LookupCache,
    Resolver,
    ask_for_policies,
    reaches,
    read_endpoint,
    read_resolv_conf,
    watch_controller,
)
from exclave_sandbox.standin.settings import read_environment
from support.mesh import ADDRESS, make_settings
from support.network_namespace import in_network_namespace

WEB = ("10.96.0.80", 8080)
ENDPOINT = MeshEndpoint(
    "10.77.0.20", 8080, "spiffe://cluster.local/ns/shop/sa/web", "web.shop.svc.cluster.local", False
)
ANSWER = (
    b'{"address": "10.77.0.20", "port": 8080, "identity": "spiffe://cluster.local/ns/shop/sa/web", '
    b'"serverName": "web.shop.svc.cluster.local", "opaque": false}'
)


@dataclass
class Controller:
    """Answers `status` and `body`, unless it is `away` or `hangs`. `asked` are the request targets."""

    status: int = 200
    body: bytes = ANSWER
    away: bool = False
    hangs: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            if self.away:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
            self.asked.append(head.split()[1].decode())
            if self.hangs:
                await trio.sleep_forever()
            status = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.body)}\r\n\r\n"
            await stream.send_all(status.encode() + self.body)

    def lookups(self, remember: float = 3600.0) -> LookupCache:
        self.counts = Counts()
        return LookupCache(Resolver(("127.0.0.1", self.port), ""), remember, trio.current_time, self.counts)


@asynccontextmanager
async def controller() -> AsyncIterator[Controller]:
    found = Controller()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, found.serve, 0, host="127.0.0.1"))
        found.port = listeners[0].socket.getsockname()[1]
        yield found
        nursery.cancel_scope.cancel()


async def test_an_answer_is_used_for_half_a_second_and_then_fetched_again(autojump_clock: object) -> None:
    async with controller() as found:
        lookups = found.lookups()
        assert [await lookups.find(WEB) for _ in range(5)] == [ENDPOINT] * 5
        assert found.asked == ["/endpoint?address=10.96.0.80&port=8080"]
        await trio.sleep(1)
        found.status = 404
        assert await lookups.find(WEB) is None
        assert len(found.asked) == 2


async def test_requests_and_answers_are_counted_as_linkerd2_proxy_counts_them(autojump_clock: object) -> None:
    async with controller() as found:
        lookups = found.lookups()
        await lookups.find(WEB)
        found.hangs = True
        await trio.sleep(1)
        await lookups.find(WEB)
        server = f"127.0.0.1:{found.port}"
        assert found.counts.render() == [
            f'control_request_total{{addr="{server}"}} 2',
            f'control_response_latency_ms_count{{addr="{server}",status_code="200"}} 1',
        ]


async def test_an_answer_in_use_waits_half_a_second_for_a_controller_that_hangs(autojump_clock: object) -> None:
    async with controller() as found:
        lookups = found.lookups()
        await lookups.find(WEB)
        found.hangs = True
        for _ in range(20):
            await trio.sleep(0.3)
            began = trio.current_time()
            assert await lookups.find(WEB) == ENDPOINT
            assert trio.current_time() - began == pytest.approx(0.5) or trio.current_time() == began


async def test_a_service_that_lost_its_endpoint_waits_for_another(autojump_clock: object) -> None:
    async with controller() as found:
        lookups = found.lookups()
        await lookups.find(WEB)
        found.status = 503
        await trio.sleep(0.7)
        with pytest.raises(NoEndpoints):
            await lookups.find(WEB)


async def test_a_service_without_an_endpoint_has_time_to_get_one(autojump_clock: object) -> None:
    async with controller() as found, trio.open_nursery() as nursery:
        found.status = 503

        async def mend() -> None:
            await trio.sleep(2)
            found.status = 200

        nursery.start_soon(mend)
        assert await found.lookups().find(WEB) == ENDPOINT


async def test_a_service_that_stays_without_one_is_an_error_after_a_while(autojump_clock: object) -> None:
    async with controller() as found:
        found.status = 503
        began = trio.current_time()
        with pytest.raises(NoEndpoints, match=r"no endpoint for 10\.96\.0\.80:8080"):
            await found.lookups().find(WEB)
        assert 3 <= trio.current_time() - began < 4


async def test_an_answer_in_use_is_used_while_the_controller_is_away(autojump_clock: object) -> None:
    async with controller() as found:
        lookups = found.lookups(remember=3600)
        await lookups.find(WEB)
        found.away = True
        for _ in range(3):
            await trio.sleep(3000)  # used within the hour, each time
            assert await lookups.find(WEB) == ENDPOINT


async def test_an_unused_answer_is_dropped_and_the_next_lookup_waits(autojump_clock: object) -> None:
    async with controller() as found, trio.open_nursery() as nursery:
        lookups = found.lookups(remember=5)
        await lookups.find(WEB)
        found.away = True
        await trio.sleep(8)
        with trio.move_on_after(60) as hung:
            await lookups.find(WEB)
        assert hung.cancelled_caught

        async def come_back() -> None:
            await trio.sleep(60)
            found.away = False

        nursery.start_soon(come_back)
        assert await lookups.find(WEB) == ENDPOINT


async def test_a_controller_with_a_wrong_answer_counts_as_away(autojump_clock: object) -> None:
    async with controller() as found:
        found.status = 500
        with trio.move_on_after(20) as hung:
            await found.lookups().find(WEB)
        assert hung.cancelled_caught and len(found.asked) > 10


def test_an_endpoint_outside_of_the_mesh_has_no_identity() -> None:
    tree = {"address": "10.0.0.1", "port": 80, "identity": None, "serverName": None, "opaque": True}
    assert read_endpoint(tree) == MeshEndpoint("10.0.0.1", 80, None, None, True)


@pytest.mark.parametrize("change", [{"port": None}, {"port": "http"}, {"port": float("inf")}])
def test_a_malformed_endpoint_is_refused(change: dict[str, object]) -> None:
    tree = {"address": "10.0.0.1", "port": 80, "identity": None, "serverName": None, "opaque": True}
    with pytest.raises(ValueError, match="an endpoint of the destination controller was expected"):
        read_endpoint({**tree, **change})


NAME = "linkerd-dst-headless.linkerd.svc.cluster.local."


@in_network_namespace("169.254.77.3/32")
async def test_a_name_is_found_by_its_srv_record_at_the_agents_own_server() -> None:
    resolv_conf = "# ours\nsearch example.org\nnameserver 169.254.77.3\noptions ndots:0\n"
    async with open_dns("169.254.77.3", Latest(make_settings())):
        assert await Resolver((NAME, 1), resolv_conf).find() == ("10.42.0.2", 8086)


@in_network_namespace("169.254.77.3/32")
async def test_the_last_address_of_a_name_is_used_while_no_name_server_answers() -> None:
    resolver = Resolver((NAME, 1), "nameserver 169.254.77.3\n")
    async with open_dns("169.254.77.3", Latest(make_settings())):
        assert await resolver.find() == ("10.42.0.2", 8086)
    assert await resolver.find() == ("10.42.0.2", 8086)


@in_network_namespace("169.254.77.3/32")
async def test_an_unknown_name_has_no_address() -> None:
    async with open_dns("169.254.77.3", Latest(make_settings())):
        with pytest.raises(OSError, match="elsewhere has no address"):
            await Resolver(("elsewhere", 1), "nameserver 169.254.77.3\n").find()


async def test_an_address_needs_no_name_server_and_a_name_does() -> None:
    assert await Resolver(("fd00:42::2", 8086), "").find() == ("fd00:42::2", 8086)
    with pytest.raises(OSError, match="has no address"):
        await Resolver((NAME, 8086), "").find()


def test_the_machines_own_resolv_conf_is_read() -> None:
    with open("/etc/resolv.conf") as file:
        assert read_resolv_conf() == file.read()


ENVIRONMENT = proxy_environment(
    make_settings(), "web-1", (ADDRESS,), "a", Path("/run/w.sock"), "info", drain=5.0, families=(4,)
)


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Controller, Counts, trio.Event, set[int]]]:
    """The controller, and a stand-in that asks it once it is certified."""
    controller, counts, certified, policies = Controller(body=b"{}"), Counts(), trio.Event(), set[int]()
    settings = read_environment(ENVIRONMENT)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, controller.serve, listeners)
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
