"""What is reported to the cluster as certificate, proxy, rules and application come and go, in virtual time."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.group import Probe
from exclave.api.requests import MEMBERS
from exclave.confirm.confirm import Confirmation, Stage
from exclave.ending import Ending
from exclave.listing.probes import run_probes
from exclave.listing.ready import REPAIRING, REPLACING, plan_writes
from exclave.listing.serving import ADOPTION, POLL_INTERVAL, WRITE_TIMEOUT
from exclave.member.addresses import AddressProblem
from exclave.redirect.kernel.observe import Observed
from listing.data_path_world import AFTER, SERVING, WANTED, virtual_now
from support.faults import failing_once
from support.mesh import ADDRESS, MEMBER, NAMESPACE, make_settings, publish

READY = "Ready=True certificate, proxy and rules are in place, and the probes pass"
NO_PROXY = "Ready=False no proxy is ready; tolerated for 30s; new outbound connections wait, inbound ones fail"
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


async def test_while_the_cluster_counts_a_member_as_silent_the_status_is_not_ready_and_then_it_reports_again(
    world: Any,
) -> None:
    def live(status: str, at: str) -> dict[str, Any]:
        condition = {
            "type": "Live",
            "status": status,
            "reason": "x",
            "message": "no heartbeat",
            "lastTransitionTime": at,
        }
        return {"status": {"conditions": [condition]}}

    made = world()
    async with made.listed() as listing:
        made.cluster.change(MEMBERS, NAMESPACE, MEMBER, live("True", "2026-11-30T12:00:00Z"), "status")
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        patched = f"patch externalworkloads/status {MEMBER}"
        count = made.cluster.trace.count(patched)
        made.cluster.change(MEMBERS, NAMESPACE, MEMBER, live("False", "2026-11-30T12:00:30Z"), "status")
        silent = await listing.state.wait_for(lambda view: not view.ready)
        assert (silent.reason, silent.message) == ("NotLive", "the cluster sends no traffic here: no heartbeat")
        made.cluster.change(MEMBERS, NAMESPACE, MEMBER, live("True", "2026-11-30T12:00:45Z"), "status")
        await listing.state.wait_for(lambda view: view.ready)
        await trio.sleep(1)
        assert made.cluster.trace.count(patched) == count + 1
        # This watch is refused meanwhile: only the time of the last change shows that there was one.
        made.cluster.change(MEMBERS, NAMESPACE, MEMBER, live("True", "2026-11-30T12:01:45Z"), "status")
        await trio.sleep(1)
        assert made.cluster.trace.count(patched) == count + 2
        made.membership.silence.set("the cluster refuses this machine's heartbeats: forbidden")
        refused = await listing.state.wait_for(lambda view: not view.ready)
        assert refused.message == "the cluster refuses this machine's heartbeats: forbidden"


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
