"""One running process: its readiness minute by minute, in virtual time with a real admin server; and how it ends."""

import math
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.config import ProxyConfig
from exclave.ending import Ending, EndingSwitch
from exclave.identity.svid import Svid
from exclave.kit.host.gated import HeldProcess
from exclave.kit.tasks.latest import Latest
from exclave.proxy.instance import KILL_TIME, open_proxy
from exclave.proxy.probe import leaf_not_after
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.records import RecordFile
from exclave.proxy.published import InstanceView, PublishedProxy
from exclave.proxy.running import KILL_DELAY, ReadinessWatcher
from exclave.proxy.states import InstanceEffect, InstanceState
from support.mesh import RECORD, mesh
from support.network_namespace import in_network_namespace

from .admin import SERVER_NAME, Admin, admin

NOW = time.time()
FIRST, SECOND = (mesh().svid(NOW, lifetime=timedelta(hours=hours)) for hours in (1, 2))

on_the_link = in_network_namespace("169.254.77.1", virtual=True)


class WatchedInstance:
    """A proxy with one instance, and a watcher of it: what it has published, and what it returned."""

    def __init__(self, served: Admin | None, state: InstanceState) -> None:
        self._served = served
        self.proxy = PublishedProxy(ProxyUser("nobody", 65534, 65534))
        self.proxy.choose("a")
        self.proxy.change("a", InstanceView(state, 4711, "digest"))
        self.svid: Latest[Svid | None] = Latest(FIRST)
        self.effects: tuple[InstanceEffect, ...] | None = None
        self._began = 0.0

    @property
    def served(self) -> Admin:
        assert self._served is not None
        return self._served

    @property
    def state(self) -> InstanceState:
        return self.proxy.instances.value["a"].state

    @property
    def published(self) -> tuple[str | None, str | None]:
        return self.proxy.ready.value, self.proxy.problem.value

    def _now(self) -> float:
        return NOW + trio.current_time() - self._began

    async def watch(self) -> None:
        self._began = trio.current_time()
        self.effects = await ReadinessWatcher(self.proxy, "a", SERVER_NAME, self.svid, self._now).watch()


@asynccontextmanager
async def watched(state: InstanceState, *, ready: int = 200, silent: bool = False) -> AsyncIterator[WatchedInstance]:
    """An instance under watch; nobody answers for a silent one."""
    async with trio.open_nursery() as nursery:
        instance = WatchedInstance(None if silent else await nursery.start(serve, ready), state)
        nursery.start_soon(instance.watch)
        yield instance
        nursery.cancel_scope.cancel()


async def serve(ready: int, *, task_status: "trio.TaskStatus[Admin]") -> None:
    """Be the instance's admin server, at its own place."""
    async with admin(ready, host="169.254.77.1", port=4191) as served:
        served.certify(leaf_not_after(FIRST))
        task_status.started(served)
        await trio.sleep_forever()


@on_the_link
async def test_a_new_instance_is_certified_once_it_serves_our_certificate() -> None:
    async with watched(InstanceState.STARTING) as instance:
        instance.served.certify(leaf_not_after(SECOND))
        await trio.sleep(20)
        assert (instance.state, instance.published) == (InstanceState.STARTING, (None, None))
        instance.served.certify(leaf_not_after(FIRST))
        await instance.proxy.ready.wait_for(bool)
        assert (instance.state, instance.published) == (InstanceState.STANDBY, ("a", None))
        assert instance.proxy.instances.value["a"].certificate_expires == leaf_not_after(FIRST)


@on_the_link
async def test_a_new_instance_that_is_not_certified_in_time_is_ended() -> None:
    async with watched(InstanceState.STARTING, ready=503) as instance:
        await trio.sleep(29)
        assert (instance.state, instance.effects) == (InstanceState.STARTING, None)
        await trio.sleep(2)
        assert (instance.state, instance.effects) == (InstanceState.ENDING, (InstanceEffect.TERMINATE,))


@on_the_link
async def test_an_adopted_instance_is_never_ended_for_not_answering() -> None:
    async with watched(InstanceState.STANDBY, silent=True) as instance:
        await trio.sleep(600)
        assert (instance.state, instance.effects) == (InstanceState.STANDBY, None)
        assert instance.published == (None, "proxy a runs, but does not answer")


@on_the_link
async def test_three_probes_without_an_answer_make_it_not_ready_and_an_answer_makes_it_ready() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        await instance.proxy.ready.wait_for(bool)
        instance.served.ready = None
        before = len(instance.served.asked)
        await instance.proxy.ready.wait_for(lambda ready: ready is None)
        assert instance.published == (None, "proxy a runs, but does not answer")
        assert len(instance.served.asked) - before >= 3
        instance.served.ready = 200
        await instance.proxy.ready.wait_for(bool)
        assert instance.published == ("a", None)


@on_the_link
async def test_an_instance_that_reports_not_ready_is_not_ready() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        await instance.proxy.ready.wait_for(bool)
        instance.served.ready = 503
        await instance.proxy.ready.wait_for(lambda ready: ready is None)
        assert instance.published == (None, "proxy a reports that it is not ready")


@on_the_link
async def test_a_renewed_certificate_that_it_does_not_serve_yet_changes_nothing() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        await instance.proxy.ready.wait_for(bool)
        instance.svid.set(SECOND)
        await trio.sleep(30)
        assert instance.published == ("a", None)
        assert instance.proxy.instances.value["a"].certificate_expires == leaf_not_after(FIRST)
        instance.served.certify(leaf_not_after(SECOND))
        await trio.sleep(2)
        assert instance.proxy.instances.value["a"].certificate_expires == leaf_not_after(SECOND)


@on_the_link
async def test_an_instance_with_an_expired_certificate_is_not_ready_until_it_has_another() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        await instance.proxy.ready.wait_for(bool)
        await trio.sleep(3610)
        assert instance.published == (None, "proxy a has no valid certificate")
        instance.svid.set(SECOND)
        instance.served.certify(leaf_not_after(SECOND))
        await instance.proxy.ready.wait_for(bool)


@on_the_link
async def test_an_instance_without_a_certificate_is_not_ready() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        instance.served.metrics = ""
        await instance.proxy.problem.wait_for(bool)
        assert instance.published == (None, "proxy a has no valid certificate")


@on_the_link
async def test_a_ready_instance_is_probed_every_two_seconds_and_for_metrics_once_a_minute() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        await trio.sleep(600.5)
        asked = Counter(instance.served.asked)
        assert 295 <= asked["/ready"] <= 302
        assert 10 <= asked["/metrics"] <= 11


@on_the_link
async def test_a_renewal_is_probed_for_at_once() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        await instance.proxy.ready.wait_for(bool)
        await trio.sleep(0.25)  # the first probes are over, and the next is nearly two seconds away
        instance.served.certify(leaf_not_after(SECOND))
        instance.svid.set(SECOND)
        with trio.fail_after(0.25):
            await instance.proxy.instances.wait_for(
                lambda views: views["a"].certificate_expires == leaf_not_after(SECOND)
            )


ALL = frozenset({"/ready", "/metrics"})


@on_the_link
async def test_a_new_instance_that_denies_requests_is_certified_by_our_certificate_only() -> None:
    async with watched(InstanceState.STARTING) as instance:
        instance.served.refused = ALL
        instance.served.load(SECOND)
        await trio.sleep(20)
        assert (instance.state, instance.published) == (InstanceState.STARTING, (None, None))
        instance.served.load(FIRST)
        await instance.proxy.ready.wait_for(bool)
        assert (instance.state, instance.published) == (InstanceState.STANDBY, ("a", None))
        assert instance.proxy.instances.value["a"].certificate_expires == leaf_not_after(FIRST)


@on_the_link
async def test_a_lasting_denial_is_reported_and_the_instance_stays_ready() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        instance.served.load(FIRST)
        instance.served.refused = ALL
        await trio.sleep(9)
        assert (instance.published, instance.proxy.admin_denial.value) == (
            ("a", None),
            None,
        )  # a policy may be on its way
        await trio.sleep(60)
        assert instance.published == ("a", None)
        assert instance.proxy.admin_denial.value == (
            "proxy a denies this machine's requests on its admin port 4191: Linkerd has sent no policy for it yet, or "
            "a Server for that port has no route for /ready and /metrics; only its certificate shows that it is ready"
        )
        instance.served.refused = frozenset()
        await instance.proxy.admin_denial.wait_for(lambda admin_denial: admin_denial is None)


@on_the_link
async def test_a_renewal_is_proven_although_requests_are_denied() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        instance.served.load(FIRST)
        instance.served.refused = ALL
        await instance.proxy.ready.wait_for(bool)
        instance.served.load(SECOND)
        instance.svid.set(SECOND)
        with trio.fail_after(5):
            await instance.proxy.instances.wait_for(
                lambda views: views["a"].certificate_expires == leaf_not_after(SECOND)
            )


@on_the_link
async def test_an_instance_that_denies_requests_and_has_no_certificate_is_not_ready() -> None:
    async with watched(InstanceState.STANDBY) as instance:
        instance.served.refused = ALL
        await instance.proxy.problem.wait_for(bool)
        assert instance.published == (None, "proxy a denies requests on its admin port, and serves no certificate")


async def find_nobody(name: str) -> ProxyUser:
    return ProxyUser(name, 65534, 65534)


async def test_the_agent_ends_although_no_signal_ends_the_proxy(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sleep = Path(shutil.which("sleep") or "").resolve()
    config, endings = ProxyConfig(sleep, "nobody", drain=7.0), EndingSwitch()
    membership: Any = SimpleNamespace(settings=Latest(None), record=RECORD, captured=Latest(()))
    identity: Any = SimpleNamespace(svid=Latest(None))
    autojump_clock.autojump_threshold, autojump_clock.rate = math.inf, 1.0  # a user is looked up in a thread
    process = subprocess.Popen([sleep, "1000"])
    try:
        RecordFile(tmp_path).add("a", process.pid, str(sleep), "digest")
        monkeypatch.setattr(HeldProcess, "send", lambda *_: None)
        # The real lookup runs in a thread, and virtual time would pass its limit at once.
        monkeypatch.setattr("exclave.proxy.instance.find_proxy_user", find_nobody)
        parts = (membership, identity, tmp_path / "workload.sock", "169.254.77.3", "a", endings, time.time)
        async with open_proxy(config, tmp_path, *parts):  # type: ignore[arg-type]
            autojump_clock.autojump_threshold, autojump_clock.rate = 0.0, 0.0
            began = trio.current_time()
            endings.ask_nowait(Ending.LEAVE)
        assert trio.current_time() == pytest.approx(began + 7.0 + KILL_DELAY + KILL_TIME)
        assert RecordFile(tmp_path).find_running().keys() == {"a"}, "cleanup finds the process by its record"
    finally:
        process.kill()
        process.wait()
    expected = "a proxy has not ended 10 s after SIGKILL; its record stays, and exclave cleanup tries again"
    assert caplog.messages[-1] == expected
