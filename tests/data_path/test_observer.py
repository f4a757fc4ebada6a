"""The observer with a real admin server, whose metrics a test sets: what is published and logged."""

import functools
from types import SimpleNamespace
from typing import Any

import h11
import pytest
import trio
import trio.testing

from exclave.api.group import FailurePolicy
from exclave.data_path.assessment import Assessment, DataPathFault, assess
from exclave.data_path.control_plane import sample_controllers
from exclave.data_path.observer import TICK, DataPathObserver, open_data_path
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.wall_clock import LONGEST_NAP, Now
from exclave.link.layout import ADMIN_PORT, instance_address
from support.faults import failing_once
from support.mesh import make_settings
from support.network_namespace import in_network_namespace

AFTER = 30.0
UID = 4_000_000_000
"""Nobody's: it has no connections."""


STARTED = SimpleNamespace(is_adopted=False, pid=100)
ADOPTED = SimpleNamespace(is_adopted=True, pid=100)


class Machine:
    """The observed parts: settings, a certificate, a proxy, and the wall clock, which is the virtual one."""

    def __init__(self, after: float = AFTER, **proxy: Any) -> None:
        self.membership: Any = SimpleNamespace(settings=Latest(make_settings(failure=FailurePolicy(after))))
        self.identity: Any = SimpleNamespace(svid=Latest(SimpleNamespace(not_after=1e6)))
        self.proxy: Any = SimpleNamespace(
            ready=Latest("a"), instances=Latest(proxy.get("instances", {"a": STARTED})), uid=UID
        )

    def data_path(self, now: Now = trio.current_time) -> DataPathObserver:
        return DataPathObserver(self.membership, self.identity, self.proxy, now)


class Metrics:
    """A proxy's admin server."""

    def __init__(self) -> None:
        self.ready = 1
        self.answered = 0  # look-ups of destinations
        self.status = 200
        self.requests = 0

    def page(self) -> bytes:
        self.requests += 1
        endpoints = "".join(
            f'control_{name}_balancer_endpoints{{endpoint_state="ready",addr="x"}} {self.ready}\n'
            for name in ("destination", "policy")
        )
        labels = 'addr="linkerd-dst-headless.x:8086",status_code="200"'
        count = f"control_response_latency_ms_count{{{labels}}} {self.answered}"
        return f"{endpoints}{count if self.answered else ''}\n".encode()

    async def serve(self, *, task_status: "trio.TaskStatus[None]") -> None:
        listeners = await trio.open_tcp_listeners(ADMIN_PORT, host=instance_address("a"))
        await trio.serve_listeners(self._talk, listeners, task_status=task_status)  # type: ignore[arg-type]

    async def _talk(self, stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some(65536):
                http, page = h11.Connection(h11.SERVER), self.page()
                http.receive_data(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                http.next_event()
                head = h11.Response(status_code=self.status, headers=[("Content-Length", str(len(page)))])
                await stream.send_all((http.send(head) or b"") + page)


async def wait_assessment(data_path: DataPathObserver, accept: Any) -> Assessment:
    with trio.fail_after(10 * LONGEST_NAP):
        return await data_path.assessment.wait_for(accept)


# Judging, in virtual time.


async def test_the_data_path_is_assessed_at_every_change_and_by_the_clock(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    data_path = machine.data_path()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(data_path.run_assessment)
        await wait_assessment(data_path, lambda found: found.is_steady)
        machine.proxy.ready.set(None)
        began = trio.current_time()
        await wait_assessment(data_path, lambda found: found.reason is DataPathFault.PROXY_AWAY)
        assert trio.current_time() == began
        await wait_assessment(data_path, lambda found: found.is_failing and found.outbound_open)
        assert AFTER <= trio.current_time() - began <= AFTER + TICK
        machine.proxy.ready.set("a")
        await wait_assessment(data_path, lambda found: found.is_steady)
        nursery.cancel_scope.cancel()
    assert [message.partition("] ")[0] for message in caplog.messages] == [
        "data path: [outbound=closed inbound=closed failing=False why=proxy-away",
        "data path: [outbound=open inbound=closed failing=True why=proxy-away",
    ]  # once each, and the way back below


async def test_the_recovery_is_logged_too(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    machine = Machine()
    data_path = machine.data_path()
    data_path.assess_now()
    machine.proxy.ready.set(None)
    data_path.assess_now()
    machine.proxy.ready.set("a")
    data_path.assess_now()
    assert caplog.messages[-1] == "data path: [outbound=closed inbound=closed failing=False why=none]"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_certificate_ends_by_the_clock_alone(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine()
    machine.identity.svid.set(SimpleNamespace(not_after=trio.current_time() + 200))
    data_path = machine.data_path()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(data_path.run_assessment)
        await wait_assessment(data_path, lambda found: found.reason is DataPathFault.CERTIFICATE_ENDED)
        assert trio.current_time() - began == 200
        nursery.cancel_scope.cancel()


async def test_no_task_wakes_while_there_is_no_fault(autojump_clock: trio.testing.MockClock) -> None:
    asked: list[float] = []

    def now() -> float:
        asked.append(trio.current_time())
        return asked[-1]

    data_path = Machine().data_path(now)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(data_path.run_assessment)
        await trio.sleep(10 * LONGEST_NAP)
        nursery.cancel_scope.cancel()
    assert len(set(asked)) <= 11


async def test_an_adopted_proxy_fails_if_it_never_answers(autojump_clock: trio.testing.MockClock) -> None:
    machine = Machine(instances={"a": ADOPTED})
    machine.proxy.ready.set(None)
    data_path = machine.data_path()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(data_path.run_assessment)
        await wait_assessment(data_path, lambda found: found.is_failing)
        nursery.cancel_scope.cancel()


async def test_rules_that_the_kernel_refuses_are_a_loss(autojump_clock: trio.testing.MockClock) -> None:
    data_path = Machine().data_path()
    data_path.assess_now()
    data_path.rules.set(False)
    assert data_path.assess_now().reason is DataPathFault.RULES_REFUSED


async def test_a_link_that_cannot_be_kept_is_a_loss_and_explains_a_proxy_that_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    data_path = machine.data_path()
    data_path.assess_now()
    data_path.link.set(False)
    machine.proxy.ready.set(None)
    found = data_path.assess_now()
    assert found.reason is DataPathFault.LINK_AWAY
    assert not found.is_steady


# Looking, with a real admin server.


def with_admin_server(test: Any) -> Any:
    @in_network_namespace(instance_address("a"))
    @functools.wraps(test)
    async def run() -> None:
        metrics, machine = Metrics(), Machine(after=0.5)
        async with trio.open_nursery() as nursery:
            await nursery.start(metrics.serve)
            await test(metrics, machine)
            nursery.cancel_scope.cancel()

    return run


@with_admin_server
async def test_outbound_opens_while_linkerd_is_away_if_the_proxy_never_had_a_destination(
    metrics: Metrics, machine: Machine
) -> None:
    async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
        await data_path.lookups.wait_for(lambda found: found is True)
        metrics.ready = 0
        await wait_assessment(data_path, lambda found: found.reason is DataPathFault.CONTROL_PLANE_AWAY)
        found = await wait_assessment(data_path, lambda found: found.outbound_open)
        assert found.is_steady and not found.is_failing
        metrics.ready = 1
        await wait_assessment(data_path, lambda found: found.reason is None)


@with_admin_server
async def test_a_proxy_with_destinations_serves_while_linkerd_is_away(metrics: Metrics, machine: Machine) -> None:
    metrics.answered = 1
    async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
        await data_path.has_destinations.wait_for(lambda found: found)
        metrics.ready = 0
        metrics.answered = 0  # the proxy removes metrics that were not used for long
        found = await wait_assessment(data_path, lambda found: found.outside_open)
        assert not found.outbound_open and data_path.has_destinations.value
        # Another process has none.
        machine.proxy.instances.set({"a": SimpleNamespace(is_adopted=False, pid=101)})
        await wait_assessment(data_path, lambda found: found.outbound_open)


@with_admin_server
async def test_an_adopted_proxy_may_have_destinations(metrics: Metrics, machine: Machine) -> None:
    metrics.ready = 0
    machine.proxy.instances.set({"a": ADOPTED})
    async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
        found = await wait_assessment(data_path, lambda found: found.outside_open)
        assert not found.outbound_open


@with_admin_server
async def test_outbound_opens_at_the_second_poll_if_linkerd_is_away_from_the_start(
    metrics: Metrics, machine: Machine
) -> None:
    metrics.ready = 0
    machine.membership.settings.set(make_settings(failure=FailurePolicy(3600.0)))  # that is not waited for
    async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
        await wait_assessment(data_path, lambda found: found.outbound_open)
        assert metrics.requests == 2


@with_admin_server
async def test_a_proxy_that_does_not_answer_is_no_evidence_about_linkerd(metrics: Metrics, machine: Machine) -> None:
    machine.proxy.ready.set("b")  # which has no process
    async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
        await trio.testing.wait_all_tasks_blocked(0.3)
        assert data_path.lookups.value is None
        machine.proxy.ready.set("a")
        await data_path.lookups.wait_for(lambda found: found is True)


@with_admin_server
async def test_if_a_policy_denies_the_metrics_the_kernel_s_connections_count(
    metrics: Metrics, machine: Machine
) -> None:
    metrics.status = 403
    async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
        found = await wait_assessment(
            data_path, lambda found: found.reason is DataPathFault.CONTROL_PLANE_AWAY
        )  # there are none
        assert found.outbound_open
        metrics.status = 200
        await wait_assessment(data_path, lambda found: found.reason is None)


# What falls over comes back.


@with_admin_server
async def test_polling_goes_on_after_an_unexpected_failure(metrics: Metrics, machine: Machine) -> None:
    with pytest.MonkeyPatch.context() as patched:
        calls = failing_once(patched, "exclave.data_path.observer.sample_controllers", sample_controllers)
        async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
            await data_path.lookups.wait_for(lambda found: found is True)
            assert len(calls) == 2


@in_network_namespace()
async def test_assessing_goes_on_after_an_unexpected_failure() -> None:
    machine = Machine(after=0.5)
    with pytest.MonkeyPatch.context() as patched:
        async with open_data_path(machine.membership, machine.identity, machine.proxy, trio.current_time) as data_path:
            calls = failing_once(patched, "exclave.data_path.observer.assess", assess)
            machine.proxy.ready.set(None)
            await wait_assessment(data_path, lambda found: found.outbound_open)
            assert len(calls) >= 2
