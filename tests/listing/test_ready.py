"""What is told, decided from facts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.listing.ready import (
    Effect,
    Facts,
    ProbeResult,
    SetReady,
    SetServing,
    Told,
    Verdict,
    decide,
    judge,
    wants_serving,
)

PASSING = ProbeResult(8080, "tcp", True, "")
FAILING = ProbeResult(8080, "tcp", False, "connection refused")

STARTING = Facts(
    certificate=True,
    proxy=False,
    rules=False,
    lost_for=None,
    failure_after=30.0,
    fallback="outbound-open",
    ports=frozenset({8080}),
    probes=(PASSING,),
    serving=False,
    data_path="down",
    workload="uid-1",
    is_live=True,
)
WHOLE = replace(STARTING, proxy=True, rules=True, lost_for=0.0)
SERVING = replace(WHOLE, serving=True, data_path="meshed")
LISTED = replace(SERVING, listed=frozenset({8080}))

READY = Verdict(True, "Ready", "certificate, proxy and rules stand, and the probes pass")
UNLISTED = Verdict(False, "NotServing", "the ports are not listed yet")


def told(verdict: Verdict, is_live: bool = True, workload: str = "uid-1") -> Told:
    return Told(verdict, workload, is_live)


def not_ready(reason: str, message: str) -> SetReady:
    return SetReady(Verdict(False, reason, message))


Case = tuple[Facts, Told | None, tuple[Effect, ...]]

CASES: dict[str, Case] = {
    "nothing is told before the own Member was seen": (replace(LISTED, serving=None), None, ()),
    "at the start, not ready": (STARTING, None, (not_ready("NotServing", "missing: proxy, rules"),)),
    "a leftover of an earlier run is taken back, readiness first": (
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
        told(Verdict(False, "NotServing", "missing: proxy, rules")),
        (SetServing(True, "meshed"),),
    ),
    "served and not listed yet: wait": (SERVING, told(UNLISTED), ()),
    "listed and probed: ready": (LISTED, told(UNLISTED), (SetReady(READY),)),
    "ready and told: nothing": (LISTED, told(READY), ()),
    "a group without ports or probes is ready once it serves": (
        replace(SERVING, ports=frozenset(), probes=()),
        told(UNLISTED),
        (SetReady(READY),),
    ),
    "without an ExternalWorkload there is nobody to tell": (replace(LISTED, workload=None), None, ()),
    "another ExternalWorkload is told again": (replace(LISTED, workload="uid-2"), told(READY), (SetReady(READY),)),
    "a member that came back to life tells again": (LISTED, told(READY, is_live=False), (SetReady(READY),)),
    "a member that is not live keeps its word": (replace(LISTED, is_live=False), told(READY), ()),
    "an admin's cordon costs readiness, and the controller withdraws the ports": (
        replace(LISTED, is_cordoned=True),
        told(READY),
        (not_ready("Cordoned", "an admin has put this member out of service for a while"),),
    ),
    "a cordon that is taken back": (
        LISTED,
        told(Verdict(False, "Cordoned", "an admin has put this member out of service for a while")),
        (SetReady(READY),),
    ),
    "a failed probe costs readiness alone": (
        replace(LISTED, probes=(FAILING,)),
        told(READY),
        (not_ready("ProbeFailed", "tcp 8080: connection refused"),),
    ),
    "a probe that fails otherwise is not told again": (
        replace(LISTED, probes=(replace(FAILING, message="no answer within 1 s"),)),
        told(Verdict(False, "ProbeFailed", "tcp 8080: connection refused")),
        (),
    ),
    "a proxy lost for a moment costs readiness alone": (
        replace(LISTED, proxy=False, rules=False, lost_for=29.9),
        told(READY),
        (not_ready("NotServing", "missing: proxy, rules"),),
    ),
    "a proxy lost for longer costs the ports, and outbound opens": (
        replace(LISTED, proxy=False, lost_for=30.0),
        told(Verdict(False, "NotServing", "missing: proxy")),
        (SetServing(False, "outbound-open"),),
    ),
    "a group that keeps outbound closed says so": (
        replace(LISTED, proxy=False, lost_for=30.0, fallback="down"),
        told(Verdict(False, "NotServing", "missing: proxy")),
        (SetServing(False, "down"),),
    ),
    "a certificate that has ended counts as lost": (
        replace(LISTED, certificate=False, lost_for=1.0),
        told(READY),
        (not_ready("NotServing", "missing: certificate"),),
    ),
    "after failing, a whole data path serves again": (
        replace(WHOLE, data_path="outbound-open"),
        told(Verdict(False, "NotServing", "missing: proxy")),
        (SetServing(True, "meshed"),),
    ),
    "a data path that was said wrong is put right": (
        replace(LISTED, data_path="down"),
        told(READY),
        (SetServing(True, "meshed"),),
    ),
}


@pytest.mark.parametrize(("facts", "before", "expected"), CASES.values(), ids=CASES)
def test_decision(facts: Facts, before: Told | None, expected: tuple[Effect, ...]) -> None:
    assert decide(facts, before) == expected


FACTS = some.builds(
    Facts,
    certificate=some.booleans(),
    proxy=some.booleans(),
    rules=some.booleans(),
    lost_for=some.none() | some.floats(0, 100),
    failure_after=some.just(30.0),
    fallback=some.sampled_from(["outbound-open", "down"]),
    ports=some.frozensets(some.sampled_from([80, 8080]), max_size=2),
    probes=some.lists(some.sampled_from([PASSING, FAILING]), max_size=2).map(tuple),
    is_adopting=some.booleans(),
    serving=some.none() | some.booleans(),
    data_path=some.sampled_from(["", "meshed", "down"]),
    listed=some.frozensets(some.sampled_from([80, 8080]), max_size=2),
    workload=some.sampled_from([None, "uid-1", "uid-2"]),
    is_live=some.booleans(),
)
TOLD = some.none() | some.builds(Told, some.sampled_from([READY, UNLISTED]), some.just("uid-1"), some.booleans())


@given(FACTS, TOLD)
def test_ready_needs_a_whole_data_path_listed_ports_and_passing_probes(facts: Facts, before: Told | None) -> None:
    for effect in decide(facts, before):
        if isinstance(effect, SetReady) and effect.verdict.ready:
            assert facts.is_whole and facts.serving and facts.ports <= facts.listed
            assert all(probe.passing for probe in facts.probes)


@given(FACTS, TOLD)
def test_ports_are_never_offered_on_a_broken_data_path(facts: Facts, before: Told | None) -> None:
    for effect in decide(facts, before):
        if isinstance(effect, SetServing) and effect.serving and not facts.serving:
            assert facts.is_whole


@given(FACTS, TOLD)
def test_readiness_is_taken_back_before_the_ports_and_given_after_them(facts: Facts, before: Told | None) -> None:
    effects = decide(facts, before)
    kinds = [type(effect) for effect in effects]
    if kinds == [SetReady, SetServing]:
        assert isinstance(effects[0], SetReady) and not effects[0].verdict.ready
    elif kinds == [SetServing, SetReady]:
        assert isinstance(effects[1], SetReady) and effects[1].verdict.ready


@given(FACTS)
def test_what_was_told_is_not_told_again(facts: Facts) -> None:
    if facts.serving is None or facts.workload is None:
        return
    after = replace(facts, serving=wants_serving(facts))
    before = Told(judge(after), facts.workload, facts.is_live)
    assert not [effect for effect in decide(after, before) if isinstance(effect, SetReady)]
