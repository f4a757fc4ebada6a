"""What is reported to the cluster as certificate, proxy, rules and application come and go, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.group import FailurePolicy, Probe
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, Resource
from exclave.cluster.watch import Upserted
from exclave.config import Config, ListingConfig, MemberConfig, Paths
from exclave.confirm.confirm import Confirmation, Stage
from exclave.data_path.observer import DataPathObserver
from exclave.ending import Ending, EndingSwitch
from exclave.listing.probes import run_probes
from exclave.listing.ready import REPAIRING, REPLACING, plan_writes
from exclave.listing.serving import ADOPTION, POLL_INTERVAL, WRITE_TIMEOUT, Listing, open_listing
from exclave.member.addresses import AddressProblem
from exclave.member.client import MemberClient, open_member
from exclave.redirect.kernel.observe import NOTHING, Observed
from support.faults import failing_once
from support.mesh import ADDRESS, MEMBER, NAMESPACE, RECORD, fake_part, make_settings, publish, put_member
from support.store import StoreCluster

AFTER = 30.0
WANTED = SimpleNamespace(inbound=True, outbound=True, instance="a")
POINTING = Observed(True, "a")
SERVING = {"a": SimpleNamespace(can_serve=True, is_adopted=False)}


def virtual_now() -> float:
    return 1_800_000_000.0 + trio.current_time()


class World:
    """A member whose data path is whole, unless a test takes something away."""

    def __init__(self, folder: Path, **group: Any) -> None:
        self.settings = make_settings(failure=FailurePolicy(AFTER), **group)
        self.cluster = StoreCluster(virtual_now)
        self.trace: list[str] = []
        self.refuses: dict[int, str] = {}  # what goes wrong with a connection to a port
        self.tries: dict[int, int] = {}
        self.asked: list[str] = []  # the addresses that were probed
        self.endings = EndingSwitch()
        self.identity = fake_part(svid=SimpleNamespace(not_after=virtual_now() + 86400))
        self.proxy = fake_part(ready="a", instances=SERVING, admin_denial=None)
        self.redirect = fake_part(observed=POINTING, wanted=WANTED, problem=None)
        self.redirect.in_place = True
        self.confirming: Any = fake_part(view=Confirmation())
        self.config = Config(Paths(folder, folder), MemberConfig(ADDRESS))

    async def try_tcp(self, address: str, port: int, timeout: float) -> str | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(address)
        self.tries[port] = self.tries.get(port, 0) + 1
        return self.refuses.get(port)

    @asynccontextmanager
    async def listed(self, **member: Any) -> AsyncIterator[Listing]:
        put_member(self.cluster, self.settings, **member)
        cluster: Any = self.cluster
        async with trio.open_nursery() as nursery:
            async with open_member(RECORD, self.config, cluster, EndingSwitch(), virtual_now) as membership:
                nursery.start_soon(self._control)
                nursery.start_soon(self._note, EXTERNAL_WORKLOADS)
                nursery.start_soon(self._note, MEMBERS)
                self.membership = membership
                async with self._open(membership) as listing:
                    nursery.start_soon(self.data_path.run_assessment)
                    yield listing
                self._line("rules may go")
            nursery.cancel_scope.cancel()

    def _open(self, membership: MemberClient) -> Any:
        self.data_path = DataPathObserver(membership, self.identity, self.proxy, virtual_now)
        parts = (membership, self.identity, self.proxy, self.redirect, self.data_path, self.confirming)
        return open_listing(ListingConfig(10.0), *parts, self.endings, virtual_now)

    async def _control(self) -> None:
        async with self.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for event in events:
                if isinstance(event, Upserted):
                    await self._list_ports(event.object)

    async def _list_ports(self, member: Any) -> None:
        wanted = [port.port for port in self.settings.group.ports] if member["spec"]["serving"] else []
        if wanted != member["status"]["externalWorkload"].get("ports", []):
            await trio.sleep(1)
            status = {"externalWorkload": {**member["status"]["externalWorkload"], "ports": wanted}}
            self.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": status}, "status")
            self._line(f"the controller lists {wanted}")

    async def _note(self, resource: Resource) -> None:
        """Each thing that a machine has said, once."""
        said = None
        async with self.cluster.watch(resource, NAMESPACE, MEMBER) as events:
            async for event in events:
                assert isinstance(event, Upserted)
                spec, status = event.object["spec"], event.object.get("status", {})
                if resource is MEMBERS:
                    newest = f"serving={spec['serving']} dataPath={spec.get('dataPath', 'unsaid')}"
                else:
                    reported = [f"Ready={one['status']} {one['message']}" for one in status.get("conditions", [])]
                    newest = "".join(reported)
                if said is not None and newest != said:
                    self._line(newest)
                said = newest

    def _line(self, text: str) -> None:
        self.trace.append(f"{trio.current_time():5.1f} s  {text}")

    def lose(self, part: str) -> None:
        if part == "certificate":
            self.identity.svid.set(None)
        elif part == "proxy":
            self.proxy.instances.set({})
            self.proxy.ready.set(None)
        else:
            self.redirect.in_place = False
            self.redirect.observed.set(NOTHING)

    def regain(self) -> None:
        self.identity.svid.set(SimpleNamespace(not_after=virtual_now() + 86400))
        self.proxy.instances.set(SERVING)
        self.proxy.ready.set("a")
        self.redirect.in_place = True
        self.redirect.observed.set(POINTING)

    def reported(self) -> list[str]:
        """What was noted since the last call, without times."""
        lines, self.trace = [line[9:] for line in self.trace], []
        return lines


@pytest.fixture
def world(tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**group: Any) -> World:
        made = World(tmp_path, **group)
        monkeypatch.setattr("exclave.listing.probes.try_tcp", made.try_tcp)
        return made

    return make


READY = "Ready=True certificate, proxy and rules are in place, and the probes pass"
NO_PROXY = "Ready=False no proxy is ready; tolerated for 30s; new connections fail"
LOST = {
    "certificate": "Ready=False there is no valid certificate; tolerated for 30s; new connections fail",
    "proxy": NO_PROXY,
    "rules": "Ready=False missing: rules",
}
FAILED = "Ready=False no proxy is ready; outbound traffic bypasses the proxy, inbound fails"


async def test_a_whole_data_path_is_served_then_listed_then_ready_and_all_back_in_reverse(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(9)
        assert listing.state.value.ports == (8080,)
        assert listing.state.value.serving
        made.endings.ask_nowait(Ending.STOP)
    assert made.trace == [
        "  0.0 s  Ready=False the ports are not listed yet",
        "  0.0 s  serving=True dataPath=meshed",
        "  1.0 s  the controller lists [8080]",
        f"  1.0 s  {READY}",
        " 10.0 s  Ready=False this machine withdraws from the mesh",
        " 20.0 s  serving=False dataPath=down",
        " 21.0 s  the controller lists []",
        " 21.0 s  rules may go",
    ]


async def test_an_agent_that_hands_over_writes_nothing(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
    assert made.reported() == ["rules may go"]


@pytest.mark.parametrize("part", ["certificate", "proxy", "rules"])
async def test_a_short_loss_costs_readiness_alone(world: Any, part: str) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        made.reported()
        made.lose(part)
        await trio.sleep(AFTER - 1)
        assert made.reported() == [READY, LOST[part]]
        assert not listing.state.value.is_failing
        made.regain()
        await trio.sleep(1)
        assert made.reported() == [READY]


async def test_a_long_loss_costs_the_ports_and_reports_the_data_path(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        made.lose("proxy")
        await trio.sleep(1)
        made.reported()
        await trio.sleep(AFTER + POLL_INTERVAL + 1)
        assert made.reported() == [FAILED, "serving=False dataPath=outbound-open", "the controller lists []"]
        assert listing.state.value.is_failing
        made.regain()
        await trio.sleep(5)
        assert made.reported() == ["serving=True dataPath=meshed", "the controller lists [8080]", READY]


async def test_a_certificate_ends_by_the_clock_alone(world: Any) -> None:
    made = world()
    made.identity.svid.set(SimpleNamespace(not_after=virtual_now() + 20))
    async with made.listed():
        await trio.sleep(19)
        assert made.reported()[-1] == READY
        await trio.sleep(1 + POLL_INTERVAL)
        assert made.reported() == [LOST["certificate"]]


BYPASSES: dict[str, Any] = {
    "inbound passes by": lambda redirect: redirect.wanted.set(SimpleNamespace(inbound=False)),
    "they point to one that does not run": lambda redirect: redirect.observed.set(Observed(True, "b")),
    "the kernel refuses them": lambda redirect: redirect.problem.set("refused"),
}


@pytest.mark.parametrize("bypass", BYPASSES.values(), ids=BYPASSES)
async def test_rules_that_pass_by_the_proxy_are_none(world: Any, bypass: Any) -> None:
    made = world()
    bypass(made.redirect)
    async with made.listed():
        await trio.sleep(1)
        assert made.reported() == ["Ready=False missing: rules"]


async def test_outbound_traffic_that_passes_by_the_proxy_costs_nobody_readiness(world: Any) -> None:
    made = world()
    made.redirect.wanted.set(SimpleNamespace(**{**vars(WANTED), "outbound": False}))
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)


async def test_a_swap_costs_nobody_readiness(world: Any) -> None:
    """Rules for a trial, then rules that point to the other instance: the ones that stand are good until they go."""
    made = world()
    made.proxy.instances.set({**SERVING, "b": SERVING["a"]})
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(POLL_INTERVAL)
        made.reported()
        for wanted, ready, stands in (("a", "a", "a"), ("b", "b", "b")):
            made.redirect.in_place = False
            made.proxy.ready.set(ready)
            made.redirect.wanted.set(SimpleNamespace(**{**vars(WANTED), "instance": wanted, "trial": object()}))
            await trio.sleep(1)
            made.redirect.in_place = True
            made.redirect.observed.set(Observed(True, stands, digest=wanted))
            await trio.sleep(1)
        made.proxy.instances.set({"b": SERVING["a"]})
        await trio.sleep(2 * POLL_INTERVAL)
        assert made.reported() == []


async def test_rules_that_do_not_become_what_is_wanted_count_for_a_few_seconds_only(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.redirect.in_place = False
        made.redirect.wanted.set(SimpleNamespace(**{**vars(WANTED), "trial": object()}))
        await trio.sleep(REPLACING + POLL_INTERVAL + 1)
        assert made.reported() == ["Ready=False missing: rules"]


async def test_a_flush_that_is_repaired_costs_no_write(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        writes = [one for one in made.cluster.trace if one.startswith("patch") and "leases" not in one]
        for _ in range(5):
            made.lose("rules")
            await trio.sleep(0.02)
            assert listing.state.value.ready
            made.regain()
            await trio.sleep(2)
        assert made.reported() == []
        assert [one for one in made.cluster.trace if one.startswith("patch") and "leases" not in one] == writes


async def test_a_flush_that_is_not_repaired_is_reported_after_a_second(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.lose("rules")
        await trio.sleep(REPAIRING)
        assert made.reported() == []
        await trio.sleep(0.5)
        assert made.reported() == [LOST["rules"]]


async def test_unconfirmed_rules_withdraw_the_ports_and_a_confirmation_lists_them(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        made.confirming.view.set(Confirmation(Stage.RUNNING, 60.0, 75.0))
        await trio.sleep(1)
        made.reported()
        made.confirming.view.set(Confirmation(Stage.WITHDRAWING, 60.0, 75.0))
        await trio.sleep(2)
        assert made.reported() == [
            "Ready=False the rules were not confirmed within 60s, so nothing is captured",
            "serving=False dataPath=outbound-open",
            "the controller lists []",
        ]
        made.confirming.view.set(Confirmation())
        await trio.sleep(2)
        assert made.reported() == ["serving=True dataPath=meshed", "the controller lists [8080]", READY]


# Probes.


async def test_a_failed_probe_costs_readiness_alone_and_is_reported_once(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.refuses[8080] = "connection refused"
        await trio.sleep(10)
        assert made.reported() == ["Ready=False tcp 8080: connection refused"]
        assert [probe.passing for probe in listing.state.value.probes] == [False]
        made.refuses.clear()
        await trio.sleep(2)
        assert made.reported() == [READY]


async def test_another_address_of_this_machine_is_probed_there(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world()
    monkeypatch.setattr("exclave.member.addresses.on_this_machine", lambda asked: frozenset(asked) & made.here)
    made.here = {ADDRESS}
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        assert set(made.asked) == {ADDRESS}
        made.here = {"127.0.0.1"}
        made.membership.set_served_addresses(("127.0.0.1",))
        await trio.sleep(2)
        made.asked.clear()
        await trio.sleep(5)
        assert set(made.asked) == {"127.0.0.1"}


async def test_an_address_that_stays_is_noted_in_the_condition(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.membership.address_problem.set(AddressProblem("10.77.0.20 stays", "have it evicted"))
        await trio.sleep(1)
        assert made.reported() == [f"{READY}; but 10.77.0.20 stays"]


async def test_an_agent_that_the_cluster_has_not_answered_shows_the_last_answer_and_writes_nothing(
    world: Any,
) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.membership.view.set(None)
        await trio.sleep(30)
        view = listing.state.value
        assert (view.serving, view.ports, view.ready) == (True, (8080,), True)
        assert made.reported() == []
        made.membership.last_answer = None
        await listing.state.wait_for(lambda view: not view.ready)
        assert made.reported() == []


async def test_a_watch_that_loops_is_noted_in_the_condition(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.membership.looping.set("members web-k7q2x-1: too old")
        await trio.sleep(1)
        assert made.reported() == [f"{READY}; but the watch of members web-k7q2x-1: too old"]


async def test_new_settings_bring_new_probes(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        publish(made.cluster, make_settings(probes=(Probe(9090, every=1.0, timeout=1.0, failures=3),)))
        await listing.state.wait_for(lambda view: [probe.port for probe in view.probes] == [9090])
        await trio.sleep(1)
        before = dict(made.tries)
        await trio.sleep(5)
        assert made.tries[8080] == before[8080]
        assert made.tries[9090] > before[9090]


# What was before, and what the cluster does meanwhile.


async def test_the_state_of_an_earlier_run_is_withdrawn_before_the_data_path_works(world: Any) -> None:
    made = world()
    made.lose("proxy")
    async with made.listed(serving=True, dataPath="meshed"):
        await trio.sleep(2)
        assert made.reported()[:2] == ["Ready=False missing: proxy, rules", "serving=False dataPath=down"]


@pytest.mark.parametrize("answers", [True, False], ids=["and answers", "and never answers"])
async def test_a_proxy_that_was_adopted_is_waited_for(world: Any, answers: bool) -> None:
    made = world()
    made.lose("proxy")
    made.proxy.instances.set({"a": SimpleNamespace(is_adopted=True, can_serve=False, pid=1)})
    async with made.listed(serving=True, dataPath="meshed"):
        await trio.sleep(ADOPTION - POLL_INTERVAL)
        assert made.reported() == ["the controller lists [8080]"]
        if answers:
            made.regain()
        await trio.sleep(2 * POLL_INTERVAL + 2)
        assert made.reported()[0] == (READY if answers else FAILED)


async def test_a_new_external_workload_gets_the_condition_again(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        count = made.cluster.trace.count(f"patch externalworkloads/status {MEMBER}")
        status = {"externalWorkload": {"uid": "another", "ports": [8080]}}
        made.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": status}, "status")
        await trio.sleep(1)
        assert made.cluster.trace.count(f"patch externalworkloads/status {MEMBER}") == count + 1


async def test_after_an_outage_the_report_is_decided_again(world: Any) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.reported()
        made.cluster.away.set(True)
        made.lose("proxy")
        await trio.sleep(2 * WRITE_TIMEOUT)
        made.regain()
        await trio.sleep(2 * WRITE_TIMEOUT)
        made.cluster.away.set(False)
        await trio.sleep(2 * WRITE_TIMEOUT)
        assert made.reported() == []  # by then there is nothing new to report


async def test_a_refusal_is_logged_and_not_argued_with(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = world()
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        made.cluster.refused.set(403)
        made.lose("proxy")
        await trio.sleep(3 * POLL_INTERVAL)
        refusals = [message for message in caplog.messages if message.startswith("the cluster refused the report: ")]
        assert 1 <= len(refusals) <= 4
        made.cluster.refused.set(None)
        await trio.sleep(2 * POLL_INTERVAL)
        assert made.reported()[-1] == NO_PROXY


FAULTS = {
    "what is reported": ("exclave.listing.ready.plan_writes", plan_writes),
    "the probes": ("exclave.listing.serving.run_probes", run_probes),
}


@pytest.mark.parametrize(("name", "real"), FAULTS.values(), ids=FAULTS)
async def test_what_falls_over_comes_back(world: Any, monkeypatch: pytest.MonkeyPatch, name: str, real: Any) -> None:
    made = world()
    calls = failing_once(monkeypatch, name, real)
    async with made.listed() as listing:
        await listing.state.wait_for(lambda view: view.ready)
        assert len(calls) >= 2
