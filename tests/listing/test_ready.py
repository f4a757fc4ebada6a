"""What is reported, and which gaps in the rules cost readiness, decided from facts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.api.member import Condition
from exclave.data_path.assessment import Assessment, DataPathFault
from exclave.listing.ready import (
    REPAIRING,
    REPLACING,
    WITHIN,
    Effect,
    ProbeResult,
    Readiness,
    ReadinessFacts,
    Reported,
    RuleGaps,
    RulesFacts,
    SetReady,
    SetServing,
    can_rely_on_rules,
    plan_writes,
    readiness,
    wants_serving,
)

PASSING = ProbeResult(8080, "tcp", True, "")
FAILING = ProbeResult(8080, "tcp", False, "connection refused")

STARTING = ReadinessFacts(
    certificate=True,
    proxy=False,
    rules=False,
    assessment=Assessment(),
    was_whole=False,
    ports=frozenset({8080}),
    probes=(PASSING,),
    serving=False,
    data_path="down",
    workload="uid-1",
    is_live=True,
)
WHOLE = replace(STARTING, proxy=True, rules=True, assessment=Assessment(is_steady=True), was_whole=True)
SERVING = replace(WHOLE, serving=True, data_path="meshed")
LISTED = replace(SERVING, listed=frozenset({8080}))

LOST = Assessment(reason=DataPathFault.PROXY_AWAY, message="no proxy is ready")
FAILED = replace(LOST, is_failing=True, outbound_open=True)
AWAY = Assessment(is_steady=True, reason=DataPathFault.CONTROL_PLANE_AWAY, message="Linkerd is away")
OPENED = replace(AWAY, outbound_open=True)
HELD = Assessment(reason=DataPathFault.UNSTEADY, message="the data path comes and goes")
GONE = replace(LISTED, proxy=False, assessment=LOST)

READY = Readiness(True, "Ready", "certificate, proxy and rules are in place, and the probes pass")
UNLISTED = Readiness(False, "NotServing", "the ports are not listed yet")


def reported(
    readiness: Readiness, is_live: bool = True, workload: str = "uid-1", registered: Condition | None = None
) -> Reported:
    return Reported(readiness, workload, is_live, registered=registered)


def not_ready(reason: str, message: str, note: str = "") -> SetReady:
    return SetReady(Readiness(False, reason, message, note))


Case = tuple[ReadinessFacts, Reported | None, tuple[Effect, ...]]

CASES: dict[str, Case] = {
    "nothing is reported before the own Member was read": (replace(LISTED, serving=None), None, ()),
    "at the start, not ready": (STARTING, None, (not_ready("NotServing", "missing: proxy, rules"),)),
    "a leftover of an earlier run is withdrawn, readiness first": (
        replace(STARTING, serving=True, data_path="meshed", listed=frozenset({8080})),
        None,
        (not_ready("NotServing", "missing: proxy, rules"), SetServing(False, "down")),
    ),
    "an adopted proxy that has not answered yet is waited for": (
        replace(STARTING, serving=True, data_path="meshed", is_adopting=True),
        None,
        (),
    ),
    "a whole data path serves": (
        WHOLE,
        reported(Readiness(False, "NotServing", "missing: proxy, rules")),
        (SetServing(True, "meshed"),),
    ),
    "served and not listed yet: wait": (SERVING, reported(UNLISTED), ()),
    "a new port that is not listed yet costs those that are listed nothing": (
        replace(LISTED, ports=frozenset({8080, 9090})),
        reported(READY),
        (),
    ),
    "a port that the group has no more costs nothing either": (
        replace(LISTED, ports=frozenset({9090})),
        reported(READY),
        (),
    ),
    "listed and probed: ready": (LISTED, reported(UNLISTED), (SetReady(READY),)),
    "ready and reported: nothing": (LISTED, reported(READY), ()),
    "a group without ports or probes is ready once it serves": (
        replace(SERVING, ports=frozenset(), probes=()),
        reported(UNLISTED),
        (SetReady(READY),),
    ),
    "a proxy that refuses questions is reported, and costs nothing": (
        replace(LISTED, refusal="nobody may ask"),
        reported(READY),
        (SetReady(replace(READY, message=f"{READY.message}; but nobody may ask", note="nobody may ask")),),
    ),
    "one that lets itself be asked again": (
        LISTED,
        reported(replace(READY, message=f"{READY.message}; but nobody may ask", note="nobody may ask")),
        (SetReady(READY),),
    ),
    "what is worse explains more": (
        replace(LISTED, refusal="nobody may ask", assessment=AWAY),
        reported(READY),
        (SetReady(replace(READY, message=f"{READY.message}; but Linkerd is away", note="control-plane-away meshed")),),
    ),
    "without an ExternalWorkload there is nothing to write": (replace(LISTED, workload=None), None, ()),
    "another ExternalWorkload gets the condition again": (
        replace(LISTED, workload="uid-2"),
        reported(READY),
        (SetReady(READY),),
    ),
    "a member that came back to life reports again": (LISTED, reported(READY, is_live=False), (SetReady(READY),)),
    "a member that was silent while its watch was refused reports again": (
        replace(LISTED, live_since="2026-11-30T12:00:45Z"),
        reported(READY),
        (SetReady(READY),),
    ),
    "a member whose address was changed reports again": (
        replace(LISTED, registered=Condition("Registered", True, "ReadyAwaited", "since 12:00:45")),
        reported(READY, registered=Condition("Registered", True, "ReadyAwaited", "since 12:00:05")),
        (SetReady(READY),),
    ),
    "once": (
        replace(LISTED, registered=Condition("Registered", True, "ReadyAwaited", "since 12:00:45")),
        reported(READY, registered=Condition("Registered", True, "ReadyAwaited", "since 12:00:45")),
        (),
    ),
    "its registration alone is nothing to report about": (
        replace(LISTED, registered=Condition("Registered", True, "Registered", "it exists")),
        reported(READY),
        (),
    ),
    "a member that is not live reports nothing new": (replace(LISTED, is_live=False), reported(READY), ()),
    "an admin's cordon costs readiness, and the controller withdraws the ports": (
        replace(LISTED, is_cordoned=True),
        reported(READY),
        (not_ready("Cordoned", "an admin has put this member out of service for a while"),),
    ),
    "a cordon that ends": (
        LISTED,
        reported(Readiness(False, "Cordoned", "an admin has put this member out of service for a while")),
        (SetReady(READY),),
    ),
    "rules that were not confirmed cost everything, readiness first": (
        replace(LISTED, unconfirmed="nobody confirmed"),
        reported(READY),
        (not_ready("NotServing", "nobody confirmed"), SetServing(False, "outbound-open", "nobody confirmed")),
    ),
    "a firewall of the host that keeps pods out costs readiness alone": (
        replace(LISTED, blocked="the policy of chain in drops it"),
        reported(READY),
        (not_ready("FirewallBlocks", "the policy of chain in drops it"),),
    ),
    "a firewall of the host that may keep pods out costs nothing, and is reported": (
        replace(LISTED, blocked_note="a policy drops it"),
        reported(READY),
        (SetReady(Readiness(True, "Ready", f"{READY.message}; but a policy drops it", "firewall-blocks")),),
    ),
    "a failed probe costs readiness alone": (
        replace(LISTED, probes=(FAILING,)),
        reported(READY),
        (not_ready("ProbeFailed", "tcp 8080: connection refused"),),
    ),
    "a probe that fails otherwise is not reported again": (
        replace(LISTED, probes=(replace(FAILING, message="no answer within 1 s"),)),
        reported(Readiness(False, "ProbeFailed", "tcp 8080: connection refused")),
        (),
    ),
    "a proxy lost for a moment costs readiness alone": (
        GONE,
        reported(READY),
        (not_ready("NotServing", "no proxy is ready", "proxy-away meshed"),),
    ),
    "rules that are not there cost readiness alone": (
        replace(LISTED, rules=False),
        reported(READY),
        (not_ready("NotServing", "missing: rules"),),
    ),
    "a proxy lost for longer costs the ports, and outbound opens": (
        replace(GONE, assessment=FAILED),
        reported(Readiness(False, "NotServing", "no proxy is ready", "proxy-away meshed")),
        (
            not_ready("NotServing", "no proxy is ready", "proxy-away outbound-open"),
            SetServing(False, "outbound-open", "no proxy is ready"),
        ),
    ),
    "a group whose outbound traffic stays closed": (
        replace(GONE, assessment=replace(FAILED, outbound_open=False)),
        reported(Readiness(False, "NotServing", "no proxy is ready", "proxy-away down")),
        (SetServing(False, "down", "no proxy is ready"),),
    ),
    "what has failed gets nothing back before it has held": (
        replace(WHOLE, data_path="outbound-open", assessment=replace(FAILED, reason=DataPathFault.UNSTEADY)),
        reported(Readiness(False, "NotServing", "no proxy is ready", "data-path-unsteady outbound-open")),
        (),
    ),
    "a flapping proxy: ports stay, readiness waits until it is steady": (
        replace(LISTED, assessment=HELD),
        reported(Readiness(False, "NotServing", "no proxy is ready", "proxy-away meshed")),
        (not_ready("NotServing", "the data path comes and goes", "data-path-unsteady meshed"),),
    ),
    "Linkerd away costs nothing, and is reported": (
        replace(LISTED, assessment=AWAY),
        reported(READY),
        (SetReady(Readiness(True, "Ready", f"{READY.message}; but Linkerd is away", "control-plane-away meshed")),),
    ),
    "an address that is not the machine's newest costs nothing, and is reported": (
        replace(LISTED, address_note="10.77.0.20 stays"),
        reported(READY),
        (SetReady(Readiness(True, "Ready", f"{READY.message}; but 10.77.0.20 stays", "address-kept")),),
    ),
    "a watch that loops costs nothing, and is reported": (
        replace(LISTED, watch_note="the watch of members web-1 is too old"),
        reported(READY),
        (
            SetReady(
                Readiness(True, "Ready", f"{READY.message}; but the watch of members web-1 is too old", "watch-loops")
            ),
        ),
    ),
    "both at once": (
        replace(LISTED, address_note="10.77.0.20 stays", assessment=AWAY),
        reported(Readiness(True, "Ready", READY.message, "address-kept")),
        (
            SetReady(
                Readiness(
                    True,
                    "Ready",
                    f"{READY.message}; but Linkerd is away; but 10.77.0.20 stays",
                    "control-plane-away meshed address-kept",
                )
            ),
        ),
    ),
    "Linkerd away for longer opens outbound, and pods still may come": (
        replace(LISTED, assessment=OPENED),
        reported(Readiness(True, "Ready", READY.message, "control-plane-away meshed")),
        (
            SetServing(True, "outbound-open", "Linkerd is away"),
            SetReady(
                Readiness(
                    True,
                    "Ready",
                    f"{READY.message}; but Linkerd is away",
                    "control-plane-away outbound-open",
                )
            ),
        ),
    ),
    "after failing, a whole data path serves again": (
        replace(WHOLE, data_path="outbound-open"),
        reported(Readiness(False, "NotServing", "missing: proxy")),
        (SetServing(True, "meshed"),),
    ),
    "a wrong data path is corrected": (
        replace(LISTED, data_path="down"),
        reported(READY),
        (SetServing(True, "meshed"),),
    ),
}


@pytest.mark.parametrize(("facts", "before", "expected"), CASES.values(), ids=CASES)
def test_decision(facts: ReadinessFacts, before: Reported | None, expected: tuple[Effect, ...]) -> None:
    assert plan_writes(facts, before) == expected


FACTS = some.builds(
    ReadinessFacts,
    certificate=some.booleans(),
    proxy=some.booleans(),
    rules=some.booleans(),
    assessment=some.sampled_from([Assessment(), Assessment(is_steady=True), LOST, FAILED, AWAY, OPENED, HELD]),
    was_whole=some.booleans(),
    ports=some.frozensets(some.sampled_from([80, 8080]), max_size=2),
    probes=some.lists(some.sampled_from([PASSING, FAILING]), max_size=2).map(tuple),
    is_adopting=some.booleans(),
    serving=some.none() | some.booleans(),
    data_path=some.sampled_from(["", "meshed", "down"]),
    listed=some.frozensets(some.sampled_from([80, 8080]), max_size=2),
    workload=some.sampled_from([None, "uid-1", "uid-2"]),
    is_live=some.booleans(),
    unconfirmed=some.sampled_from(["", "nobody confirmed"]),
)
TOLD = some.none() | some.builds(Reported, some.sampled_from([READY, UNLISTED]), some.just("uid-1"), some.booleans())


@given(FACTS, TOLD)
def test_ready_needs_a_whole_data_path_listed_ports_and_passing_probes(
    facts: ReadinessFacts, before: Reported | None
) -> None:
    for effect in plan_writes(facts, before):
        if isinstance(effect, SetReady) and effect.readiness.ready:
            assert facts.is_whole and facts.serving and (facts.listed or not facts.ports)
            assert all(probe.passing for probe in facts.probes)


@given(FACTS, TOLD)
def test_ports_are_never_offered_on_a_broken_data_path(facts: ReadinessFacts, before: Reported | None) -> None:
    for effect in plan_writes(facts, before):
        if isinstance(effect, SetServing) and effect.serving and not facts.serving:
            assert facts.is_whole


@given(FACTS, TOLD)
def test_readiness_is_withdrawn_before_the_ports_and_set_after_them(
    facts: ReadinessFacts, before: Reported | None
) -> None:
    effects = plan_writes(facts, before)
    kinds = [type(effect) for effect in effects]
    if kinds == [SetReady, SetServing]:
        assert isinstance(effects[0], SetReady) and not effects[0].readiness.ready
    elif kinds == [SetServing, SetReady]:
        assert isinstance(effects[1], SetReady) and effects[1].readiness.ready


@given(FACTS)
def test_what_was_reported_is_not_reported_again(facts: ReadinessFacts) -> None:
    if facts.serving is None or facts.workload is None:
        return
    after = replace(facts, serving=wants_serving(facts))
    before = Reported(readiness(after), facts.workload, facts.is_live)
    assert not [effect for effect in plan_writes(after, before) if isinstance(effect, SetReady)]


STAND = RulesFacts(in_place=True, serving=True, gone=False, wanted=True, refused=False)
REPLACED = replace(STAND, in_place=False)
FLUSHED = replace(STAND, in_place=False, serving=False, gone=True)
WRONG = replace(STAND, in_place=False, serving=False)

Seen = list[tuple[float, RulesFacts]]

GAP_CASES: dict[str, tuple[Seen, bool]] = {
    "rules in place": ([(0, STAND)], True),
    "rules that never stood": ([(0, FLUSHED), (0.01, FLUSHED)], False),
    "rules that point to a proxy that cannot serve": ([(0, replace(STAND, serving=False))], False),
    "inbound traffic passes by": ([(0, STAND), (1, replace(STAND, wanted=False))], False),
    "the kernel refuses the repair": ([(0, STAND), (1, replace(FLUSHED, refused=True))], False),
    "flushed a moment ago": ([(0, STAND), (60, FLUSHED), (60.02, FLUSHED)], True),
    "flushed, and back": ([(0, STAND), (60, FLUSHED), (60.02, STAND)], True),
    "flushed, and not back": ([(0, STAND), (60, FLUSHED), (60.1 + REPAIRING, FLUSHED)], False),
    "flushed each second, and back each time within a hundredth": (
        [one for at in range(30) for one in ((at, STAND), (at + 0.5, FLUSHED), (at + 0.51, STAND))] + [(30, FLUSHED)],
        True,
    ),
    "undone as soon as they are repaired, once a second": (
        [one for at in range(5) for one in ((at, STAND), (at + 0.01, FLUSHED))] + [(5, FLUSHED)],
        False,
    ),
    "a fight that is over is forgotten": (
        [one for at in range(5) for one in ((at, STAND), (at + 0.01, FLUSHED))]
        + [(5, STAND), (5.1 + WITHIN, STAND), (30, FLUSHED)],
        True,
    ),
    "replaced, while the former ones serve": ([(0, STAND), (9, REPLACED), (9 + REPLACING, REPLACED)], True),
    "replaced, and it does not come to an end": ([(0, STAND), (9, REPLACED), (9.1 + REPLACING, REPLACED)], False),
    "changed by others to point elsewhere": ([(0, STAND), (9, WRONG)], False),
}


@pytest.mark.parametrize(("seen", "expected"), GAP_CASES.values(), ids=GAP_CASES)
def test_whether_pods_may_count_on_them(seen: Seen, expected: bool) -> None:
    gaps = RuleGaps()
    for now, facts in seen:
        gaps = gaps.observe(facts.in_place, now)
    assert can_rely_on_rules(facts, gaps, now) is expected


@given(some.lists(some.tuples(some.floats(0, 5), some.booleans()), max_size=50))
def test_what_is_remembered_of_gaps_is_what_the_last_seconds_held(steps: list[tuple[float, bool]]) -> None:
    now, gaps, looks = 0.0, RuleGaps(), []
    for pause, in_place in steps:
        now += pause
        gaps = gaps.observe(in_place, now)
        looks.append((now, in_place))
    # A moment belongs to the gap if the last look before it found no rules, and some look before that found some.
    missing_seconds, first = 0.0, next((index for index, (_, there) in enumerate(looks) if there), len(looks))
    for (at, there), (until, _) in zip(looks[first:], [*looks[first + 1 :], (now, True)], strict=False):
        missing_seconds += 0.0 if there else max(0.0, until - max(at, now - WITHIN))
    assert gaps.missing_seconds(now) == pytest.approx(missing_seconds)
