"""The controller's metrics: their values, and the server, read by prometheus_client's own parser."""

import socket
import threading
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from exclave.api.member import Condition, view_member
from exclave.controller.telemetry import metrics
from exclave.controller.telemetry.metrics import (
    MOST_CONNECTIONS,
    MemberStates,
    Metric,
    controller_metrics,
    open_health,
    state_of_member,
)

from ..snapshots import ADMITTED, LIVE, make_member, with_status

NOT_LIVE = Condition("Live", False, "NotLive", "")
REFUSED = Condition("Admitted", False, "AddressRefused", "")


@pytest.mark.parametrize(
    ("member", "state"),
    [
        pytest.param(make_member(), "new", id="one that is neither admitted nor refused"),
        pytest.param(with_status(make_member(), REFUSED), "refused", id="one that was refused"),
        pytest.param(with_status(make_member(), ADMITTED, LIVE), "starting", id="one without a data path"),
        pytest.param(with_status(make_member(serving=True), ADMITTED, LIVE), "serving", id="one that serves"),
        pytest.param(with_status(make_member(serving=True), ADMITTED, NOT_LIVE), "not-live", id="one that is silent"),
        pytest.param(with_status(make_member(), ADMITTED, LIVE, cordoned=True), "cordoned", id="one that is cordoned"),
        pytest.param(make_member(deleting=True), "leaving", id="one that leaves"),
    ],
)
def test_a_member_is_in_one_state(member, state: str) -> None:  # type: ignore[no-untyped-def]
    assert state_of_member(view_member(member)) == state


def test_members_are_counted_by_group_and_state_and_again_when_they_change() -> None:
    states, first, second = MemberStates(), ("shop", "web-k7q2x-1"), ("shop", "web-k7q2x-2")
    starting, new = with_status(make_member(), ADMITTED, LIVE), make_member()
    assert states.count({first: starting, second: new}) == {("web", "starting"): 1, ("web", "new"): 1}
    assert states.count({first: starting, second: starting}) == {("web", "starting"): 2}
    assert states.count({first: make_member(deleting=True)}) == {("web", "leaving"): 1}
    assert states.count({}) == {}


def test_a_member_that_has_not_changed_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    states, members = MemberStates(), {("shop", "web-k7q2x-1"): with_status(make_member(), ADMITTED, LIVE)}
    before = states.count(members)
    monkeypatch.setattr("exclave.controller.telemetry.metrics.view_member", None)
    assert states.count(members) == before


def reported(leads: bool) -> dict[str, dict[tuple[str, ...], float]]:
    found = controller_metrics(
        leads=leads,
        members=Counter({("web", "starting"): 1, ("web", "new"): 1}),
        groups=3,
        refused_groups=1,
        transitions=Counter({"Sign": 7}),
        requests=Counter({("patch", "200"): 5}),
        issuer_ends=1.8e9,
        policies_installed=True,
        heartbeat=20.0,
    )
    return {metric.name: dict(metric.samples) for metric in found}


def test_a_leader_has_all_metrics() -> None:
    assert reported(leads=True) == {
        "exclave_controller_leads": {(): 1.0},
        "exclave_api_requests": {("patch", "200"): 5.0},
        "exclave_members": {("web", "starting"): 1.0, ("web", "new"): 1.0},
        "exclave_groups": {("true",): 2.0, ("false",): 1.0},
        "exclave_controller_steps": {("Sign",): 7.0},
        "exclave_issuer_not_after_seconds": {(): 1.8e9},
        "exclave_guard_stands": {(): 1.0},
        "exclave_heartbeat_interval_seconds": {(): 20.0},
    }


def test_a_replica_that_stands_by_has_two_metrics() -> None:
    assert reported(leads=False) == {
        "exclave_controller_leads": {(): 0.0},
        "exclave_api_requests": {("patch", "200"): 5.0},
    }


METRICS = [
    Metric("exclave_members", "gauge", "Members", ("group", "state"), {("web", "serving"): 2.0}),
    Metric("exclave_api_requests", "counter", "Requests", ("verb", "code"), {("get", "200"): 5.0}),
]


async def ask(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_it_is_healthy_and_ready_and_serves_metrics() -> None:
    async with open_health("127.0.0.1", 0, lambda: METRICS, lambda: None) as port:
        for path in ("/healthz", "/readyz"):
            assert (await ask(port, path)).status_code == 200
        answer = await ask(port, "/metrics")
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert samples == {
            ("exclave_members", frozenset({("group", "web"), ("state", "serving")})): 2.0,
            ("exclave_api_requests_total", frozenset({("verb", "get"), ("code", "200")})): 5.0,
        }
        assert (await ask(port, "/")).status_code == 404


async def test_an_event_loop_that_has_stopped_is_not_healthy(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(metrics, "STUCK", 0.0)
    async with open_health("127.0.0.1", 0, lambda: METRICS, lambda: None) as port:
        answer = await ask(port, "/healthz")
        assert (answer.status_code, answer.text) == (503, "nothing has moved for 0 s\n")


async def test_a_replica_that_cannot_follow_the_cluster_is_healthy_but_not_ready() -> None:
    fault = "the watch of members: too old; 3 times in a row"
    read = trio.Event()

    def read_fault() -> str | None:
        read.set()
        return fault

    async with open_health("127.0.0.1", 0, lambda: METRICS, read_fault) as port:
        await read.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(port, "/healthz")).status_code == 200
        answer = await ask(port, "/readyz")
        assert (answer.status_code, answer.text) == (503, f"{fault}\n")


def connected(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port))
    found.settimeout(60)
    return found


def threads_of_connections() -> int:
    return sum("process_request_thread" in one.name for one in threading.enumerate())


async def test_silent_connections_stop_no_probe_and_have_a_bounded_number_of_threads() -> None:
    before = threads_of_connections()
    async with open_health("127.0.0.1", 0, lambda: METRICS, lambda: None) as port:
        with ExitStack() as stack:
            silent = [stack.enter_context(connected(port)) for _ in range(4 * MOST_CONNECTIONS)]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                assert (await client.get("/healthz")).status_code == 200
            assert await trio.to_thread.run_sync(silent[0].recv, 1) == b"", "the oldest was ended"
            for _ in range(6000):
                if threads_of_connections() - before <= MOST_CONNECTIONS:
                    break
                await trio.sleep(0.01)  # threads whose connections were ended need a moment
            else:
                raise AssertionError(f"{threads_of_connections() - before} threads")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nA: "])
async def test_a_connection_ends_though_its_client_sends_nothing_more(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(metrics, "LONGEST", 0.1)
    async with open_health("127.0.0.1", 0, lambda: METRICS, lambda: None) as port:
        with connected(port) as silent:
            silent.sendall(sent)
            assert await trio.to_thread.run_sync(silent.recv, 1) == b""


async def test_a_client_that_sends_a_byte_now_and_then_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LONGEST", 0.3)
    async with open_health("127.0.0.1", 0, lambda: METRICS, lambda: None) as port:
        with connected(port) as slow:
            with pytest.raises(OSError), trio.fail_after(60):
                while True:
                    await trio.to_thread.run_sync(slow.sendall, b"x")
                    await trio.sleep(0.05)
