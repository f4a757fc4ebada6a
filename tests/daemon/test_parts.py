"""The status of an agent, from no open part to all of them."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.api.member import Condition, MemberView
from exclave.cluster.credential import Credential
from exclave.confirm.confirm import Confirmation, Stage
from exclave.daemon.parts import Parts, is_redirected, problems_of, sections_of, situation_of, sources_of, waits_of
from exclave.daemon.status import EMPTY, Problem
from exclave.data_path.assessment import Assessment, DataPathFault
from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.listing.ready import ProbeResult
from exclave.listing.serving import ListingView
from exclave.member.addresses import AddressProblem
from exclave.member.record import EvictionNote, JoinRecord, LastAnswer
from exclave.member.state import Situation, Standing, State, state_of
from exclave.proxy.states import InstanceState
from exclave.redirect.kernel.observe import NOTHING, Observed
from support.mesh import RECORD, fake_part, make_settings

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
SETTINGS = make_settings()
JOINING = JoinRecord("nonce", "web-k7q2x-1", "sha", "key")
READY = ListingView(True, (8080,), True, "Ready", "all stands", (ProbeResult(8080, "tcp", True, ""),))


def whole() -> Parts:
    """A ready member."""
    parts = Parts(EndingSwitch(), RECORD)
    parts.cluster = fake_part(
        reachable=True, waiting=None, looping=None, credential=Credential("secret-token", NOW, NOW + 3600)
    )
    parts.cluster.skew = 300.0
    parts.cluster.server, parts.cluster.counts = "https://10.0.0.1:6443", Counter({("get", "200"): 2, ("get", ""): 1})
    parts.membership = fake_part(
        standing=Standing.MEMBER, settings=SETTINGS, problem=None, view=None, address_problem=None
    )
    parts.membership.answered_at, parts.membership.last_answer = NOW, None
    parts.membership.settings_digest, parts.membership.heartbeat_age = "abc", lambda: 1.23456
    parts.identity = fake_part(
        svid=SimpleNamespace(not_after=NOW + 86400, issuer_sha256="ab" * 32),
        renew_at=NOW + 43200,
        problem=None,
        foreign=None,
    )
    parts.identity.renewals = Counter(ok=3)
    parts.workload_api = fake_part(streams=2)
    parts.names = SimpleNamespace(address="169.254.77.3", answers=Counter(noerror=4))
    view = SimpleNamespace(state=InstanceState.ACTIVE, pid=77)
    parts.proxy = fake_part(instances={"a": view}, ready="a", problem=None, admin_denial=None)
    parts.proxy.starts, parts.proxy.answered = Counter(a=1), {"a": NOW - 1}
    parts.proxy.oldest = SimpleNamespace(anchors="ef" * 32)
    parts.data_path = fake_part(assessment=Assessment(is_steady=True))
    parts.confirming = fake_part(view=Confirmation())
    parts.steering = fake_part(problem=None)
    parts.link = fake_part(problem=None)
    parts.link.repairs = 3
    parts.redirect = fake_part(observed=Observed(True, "a", "d", "f", 3, 4), problem=None)
    parts.redirect.in_place, parts.redirect.repairs = True, 5
    parts.firewall = fake_part(blocked=None)
    parts.swap = fake_part(step=None, clients=None, problem=None)
    parts.swap.results = Counter(completed=2)
    parts.listing = fake_part(state=READY)
    return parts


# What tells of it.


def test_a_boot_has_sources_from_when_it_is_open_until_it_ends() -> None:
    parts = Parts(EndingSwitch(), RECORD)
    assert sources_of(parts) is None
    parts = whole()
    assert sources_of(parts) is not None
    parts.endings.ask_nowait(Ending.STOP)
    assert sources_of(parts) is None


# The state.


def test_without_a_boot_the_join_record_determines_the_state() -> None:
    assert situation_of(None, None) == Situation()
    assert situation_of(None, JOINING) == Situation(is_joining=True)
    assert situation_of(None, replace(JOINING, refusal="group-gone")) == Situation()


def test_a_boot_that_begins_is_a_member_that_starts() -> None:
    assert situation_of(Parts(EndingSwitch(), RECORD), JOINING) == Situation(is_member=True)


def test_the_parts_determine_the_state() -> None:
    parts = whole()
    assert state_of(situation_of(parts, None)) is State.READY
    assert parts.listing is not None and parts.membership is not None
    parts.ending = Ending.HAND_OVER
    assert state_of(situation_of(parts, None)) is State.READY
    parts.listing.state.set(replace(READY, ready=False))
    assert state_of(situation_of(parts, None)) is State.PENDING
    parts.listing.state.set(replace(READY, ready=False, is_failing=True))
    assert state_of(situation_of(parts, None)) is State.FAILING
    parts.ending = Ending.STOP
    assert state_of(situation_of(parts, None)) is State.STOPPING
    parts.ending = Ending.LEAVE
    assert state_of(situation_of(parts, None)) is State.LEAVING
    parts.membership.standing.set(Standing.EVICTED)
    assert state_of(situation_of(parts, None)) is State.EVICTED


def test_traffic_is_redirected_while_the_wanted_rules_point_to_a_ready_proxy() -> None:
    parts = whole()
    assert parts.proxy is not None and parts.redirect is not None
    parts.proxy.ready.set("a")
    assert is_redirected(parts)
    parts.proxy.ready.set("b")  # the rules point to a
    assert not is_redirected(parts)
    parts.proxy.ready.set(None)
    assert not is_redirected(parts)
    parts.proxy.ready.set("a")
    parts.ending = Ending.STOP
    assert not is_redirected(parts)
    assert not is_redirected(None)
    assert not is_redirected(Parts(EndingSwitch(), RECORD))


# The sections.


def test_without_parts_all_sections_are_empty() -> None:
    assert sections_of(None) == {}
    assert sections_of(Parts(EndingSwitch(), RECORD)) == {
        "member": {"name": "web-k7q2x-1", "namespace": "shop", "group": "web"},
        "metrics": {},
    }


def test_a_ready_member_fills_every_section() -> None:
    sections = sections_of(whole())
    assert set(sections) == set(EMPTY)
    assert all(set(sections[name]) == set(empty) for name, empty in EMPTY.items() if empty)
    assert sections["cluster"] == {
        "server": "https://10.0.0.1:6443",
        "reachable": True,
        "answered": "2027-01-15T08:00:00Z",
        "credentialExpires": "2027-01-15T09:00:00Z",
        "settings": "abc",
    }
    assert sections["certificate"] == {
        "notAfter": "2027-01-16T08:00:00Z",
        "renewAt": "2027-01-15T20:00:00Z",
        "issuer": "ab" * 32,
        "anchors": "ef" * 32,
    }
    instance = {"state": "active", "pid": 77, "answered": "2027-01-15T07:59:59Z"}
    assert sections["proxy"] == {"active": "a", "instances": {"a": instance, "b": None}}
    assert sections["redirect"] == {"installed": True, "matches": True, "captured": {"inbound": 3, "outbound": 4}}
    assert sections["listing"] == {
        "serving": True,
        "ports": [8080],
        "ready": True,
        "reason": "Ready",
        "probes": [{"kind": "tcp", "port": 8080, "passing": True, "message": ""}],
        "asOf": None,
    }
    assert sections["names"] == {"address": "169.254.77.3", "answers": {"noerror": 4}}
    assert "secret-token" not in str(sections)


def test_before_the_first_answer_the_listing_has_the_time_of_the_last_one_to_an_earlier_agent() -> None:
    parts = whole()
    assert parts.membership is not None
    parts.membership.last_answer = LastAnswer("shop", RECORD.member, True, (8080,), False)
    assert sections_of(parts)["listing"]["asOf"] == "2027-01-15T08:00:00Z"
    parts.membership.view.set(MemberView(RECORD.member))
    assert sections_of(parts)["listing"]["asOf"] is None


def test_metrics_bear_the_names_of_the_contract() -> None:
    assert sections_of(whole())["metrics"] == {
        "exclave_heartbeat_age_seconds": 1.235,
        "exclave_credential_not_after_seconds": NOW + 3600,
        'exclave_api_requests_total{verb="get",code=""}': 1,
        'exclave_api_requests_total{verb="get",code="200"}': 2,
        "exclave_certificate_not_after_seconds": NOW + 86400,
        'exclave_certificate_renewals_total{result="ok"}': 3,
        "exclave_link_repairs_total": 3,
        "exclave_redirect_repairs_total": 5,
        'exclave_proxy_starts_total{instance="a"}': 1,
        'exclave_proxy_swaps_total{result="completed"}': 2,
        "exclave_workload_api_streams": 2,
    }


def test_a_part_without_values_has_null_fields() -> None:
    parts = whole()
    parts.identity = fake_part(svid=None, renew_at=None)
    parts.identity.renewals = Counter()
    parts.membership = parts.redirect = None
    sections = sections_of(parts)
    assert sections["certificate"] == {"notAfter": None, "renewAt": None, "issuer": None, "anchors": "ef" * 32}
    assert sections["cluster"]["settings"] is None
    assert sections["proxy"]["active"] is None


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (ListingView(), None),
        (replace(READY, ready=False, reason="NotServing", message="missing: proxy"), "missing: proxy"),
        (replace(READY, ready=False, reason="NotServing", message=""), "NotServing"),
    ],
    ids=["without a reason", "with a message", "with a reason alone"],
)
def test_why_a_member_is_not_ready(view: ListingView, reason: str | None) -> None:
    parts = whole()
    parts.listing = fake_part(state=view)
    assert sections_of(parts)["listing"]["reason"] == reason


def test_both_instances_are_shown_during_a_swap() -> None:
    parts = whole()
    old = SimpleNamespace(state=InstanceState.DRAINING, pid=76)
    parts.proxy.instances.set({"a": old, "b": SimpleNamespace(state=InstanceState.ACTIVE, pid=78)})  # type: ignore[union-attr, dict-item]
    parts.redirect.observed.set(Observed(True, "b", "d", "f", 3, 4))  # type: ignore[union-attr]
    assert sections_of(parts)["proxy"] == {
        "active": "b",
        "instances": {
            "a": {"state": "draining", "pid": 76, "answered": "2027-01-15T07:59:59Z"},
            "b": {"state": "active", "pid": 78, "answered": None},
        },
    }
    parts.swap.clients.set(3)  # type: ignore[union-attr]
    assert waits_of(parts, None) == ["the last connections of a proxy that was replaced to end"]


def test_an_abandoned_swap_is_a_problem() -> None:
    parts = whole()
    parts.swap.problem.set("a swap of the proxy (new settings) was aborted: proxy b ended")  # type: ignore[union-attr]
    (problem,) = problems_of(parts, None, None)
    assert (problem.code, problem.message) == (
        "swap-given-up",
        "a swap of the proxy (new settings) was aborted: proxy b ended",
    )


# What is waited for.


def set_value(name: str, field: str, value: Any) -> Any:
    return lambda parts: getattr(getattr(parts, name), field).set(value)


NO_PROXY = set_value("proxy", "ready", None)

WAITS: dict[str, tuple[list[Any], list[str]]] = {
    "a ready member waits for nothing": ([], []),
    "settings come before the certificate": (
        [set_value("membership", "settings", None), set_value("identity", "svid", None)],
        ["the mesh's settings"],
    ),
    "a certificate, and why": (
        [set_value("identity", "svid", None), set_value("identity", "problem", "no answer"), NO_PROXY],
        ["a certificate (no answer)"],
    ),
    "the proxy": ([NO_PROXY], ["the proxy"]),
    "the proxy, and why": ([NO_PROXY, set_value("proxy", "problem", "it ended")], ["the proxy (it ended)"]),
    "the rules": ([lambda parts: setattr(parts.redirect, "in_place", False)], ["the rules"]),
    "pods, and what is not reported yet": (
        [set_value("listing", "state", replace(READY, ready=False, message="the ports are not listed yet"))],
        ["this machine to become ready (the ports are not listed yet)"],
    ),
    "the own Member": ([set_value("listing", "state", ListingView())], ["the own Member"]),
    "the API server beside anything else": (
        [set_value("cluster", "waiting", "to watch members: refused"), NO_PROXY],
        ["the API server to watch members: refused", "the proxy"],
    ),
    "its own end": ([lambda parts: setattr(parts, "ending", Ending.LEAVE), NO_PROXY], ["its parts to close (leave)"]),
}


@pytest.mark.parametrize(("changes", "waits"), WAITS.values(), ids=WAITS)
def test_waits(changes: list[Any], waits: list[str]) -> None:
    parts = whole()
    for change in changes:
        change(parts)
    assert waits_of(parts, JOINING) == waits


def test_without_a_membership_it_waits_for_somebody() -> None:
    assert waits_of(None, None) == ["somebody to run exclave join"]
    assert waits_of(None, replace(JOINING, refusal="group-gone")) == ["somebody to run exclave join"]
    assert waits_of(None, JOINING) == ["exclave join to come to its end"]


def test_a_boot_that_begins_waits_for_nothing_it_could_name() -> None:
    assert waits_of(Parts(EndingSwitch(), RECORD), None) == []


# What somebody must mend.


def set_skew(seconds: float) -> Any:
    return lambda parts: setattr(parts.cluster, "skew", seconds)


CLOCK_HINT = "set this machine's clock, for instance with: timedatectl set-ntp true"

PROBLEMS: dict[str, tuple[Any, Problem]] = {
    "a clock that is behind": (
        set_skew(18000.0),
        Problem(
            "clock-skew",
            "the clock of https://10.0.0.1:6443 is 18000 s ahead of this machine's; at most 300 s were expected",
            CLOCK_HINT,
        ),
    ),
    "a clock that is ahead": (
        set_skew(-301.0),
        Problem(
            "clock-skew",
            "the clock of https://10.0.0.1:6443 is 301 s behind this machine's; at most 300 s were expected",
            CLOCK_HINT,
        ),
    ),
    "orphaned": (
        set_value("membership", "standing", Standing.ORPHANED),
        Problem(
            "orphaned",
            "the API server does not accept this member's credential; it serves until its certificate ends",
            "join again with a new token: exclave join --again",
        ),
    ),
    "cloned": (
        set_value(
            "membership", "view", MemberView(RECORD.member, cloned=Condition("Cloned", True, "TwoMachines", "two"))
        ),
        Problem("cloned", "two", "find the other machine; it has this problem in its status, too"),
    ),
    "an address that is not its own": (
        set_value(
            "membership",
            "view",
            MemberView(
                RECORD.member, registered=Condition("Registered", False, "AddressInUse", "no port is listed: x")
            ),
        ),
        Problem(
            "address-refused",
            "no port is listed: x",
            "name the address by which pods reach this machine: member.address in /etc/exclave/config.toml; or have "
            "the member that has it evicted, if that is not what it should be",
        ),
    ),
    "an address that stays though the machine has another": (
        set_value("membership", "address_problem", AddressProblem("it is in use", "have that one evicted")),
        Problem("address-kept", "it is in use", "have that one evicted"),
    ),
    "an address that somebody else overwrites": (
        set_value("membership", "address_problem", AddressProblem("it is replaced", "find it", is_overwritten=True)),
        Problem("address-overwritten", "it is replaced", "find it"),
    ),
    "a watch that loops": (
        set_value("cluster", "looping", "members web-k7q2x-1 in shop: too old; 3 times in a row"),
        Problem(
            "watch-loops",
            "the watch of members web-k7q2x-1 in shop: too old; 3 times in a row; changes arrive late",
            "find out what ends it: read the logs of the API server, and of load balancers in front of it",
        ),
    ),
    "settings": (
        set_value("membership", "problem", "version 9"),
        Problem("settings-unusable", "version 9", "compare the versions of exclave here and in the cluster"),
    ),
    "certificate": (
        set_value("identity", "problem", "no answer"),
        Problem(
            "certificate-not-renewed",
            "no answer",
            "check whether exclave's controller runs, and read its log; for a file that cannot be written, make its "
            "disk writable, then: systemctl restart exclave",
        ),
    ),
    "a key of somebody else": (
        set_value("identity", "foreign", "one was signed"),
        Problem(
            "key-not-ours",
            "one was signed",
            "if this machine was restored from a snapshot, the key was its own, which the snapshot does not have; "
            "otherwise somebody else has this member's credential: have it evicted (kubectl exclave member evict "
            "web-k7q2x-1 -n shop), then join again",
        ),
    ),
    "a proxy that refuses every query": (
        set_value("proxy", "admin_denial", "proxy a denies this machine's requests"),
        Problem(
            "proxy-refuses",
            "proxy a denies this machine's requests",
            "check whether Linkerd's policy controller runs, and which Servers select this group: kubectl get "
            "servers.policy.linkerd.io -n shop",
        ),
    ),
    "proxy": (
        set_value("proxy", "problem", "it ended"),
        Problem("proxy-unusable", "it ended", "see the proxy's own log in the runtime folder"),
    ),
    "what the data path lacks": (
        set_value(
            "data_path", "assessment", Assessment(reason=DataPathFault.PROXY_AWAY, message="no proxy is ready; wait")
        ),
        Problem("proxy-away", "no proxy is ready; wait", "see the proxy's own log in the runtime folder"),
    ),
    "a firewall of the host that keeps pods out": (
        set_value("firewall", "blocked", SimpleNamespace(message="a policy drops it", hint="iptables -I …")),
        Problem("firewall-blocks", "a policy drops it", "iptables -I …; and add it to the file that makes these rules"),
    ),
    "rules that are to be confirmed": (
        set_value("confirming", "view", Confirmation(Stage.RUNNING, 60.0, 75.0)),
        Problem(
            "confirm-awaited",
            "the rules are removed 60s after they were loaded, unless somebody confirms them",
            "check with a new login that this machine is reachable, then run: exclave confirm",
        ),
    ),
    "rules that were not": (
        set_value("confirming", "view", Confirmation(Stage.OVER, 60.0)),
        Problem(
            "rolled-back",
            "the rules were not confirmed within 60s, so nothing is captured",
            "run exclave confirm to load them again, without a time limit",
        ),
    ),
    "steering": (
        set_value("steering", "problem", "port 70000"),
        Problem("config-invalid", "port 70000", "correct the group's spec or [redirect] in config.toml"),
    ),
    "redirect": (
        set_value("redirect", "problem", HostError(Fault.NFT_UNUSABLE, "nft refused", "load modules")),
        Problem("nft-unusable", "nft refused", "load modules"),
    ),
}


@pytest.mark.parametrize(("happen", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_problem_of_a_part(happen: Any, problem: Problem) -> None:
    parts = whole()
    assert problems_of(parts, JOINING, None) == []
    happen(parts)
    assert problems_of(parts, JOINING, None) == [problem]


def test_a_clock_that_was_never_compared_is_no_problem() -> None:
    parts = whole()
    parts.cluster.skew = None  # type: ignore[union-attr, misc]
    assert problems_of(parts, JOINING, None) == []


def test_a_wrong_clock_comes_before_the_problems_that_it_causes() -> None:
    parts = whole()
    set_skew(18000.0)(parts)
    set_value("identity", "problem", "the certificate is valid only 17990 s from now")(parts)
    assert [problem.code for problem in problems_of(parts, None, None)] == ["clock-skew", "certificate-not-renewed"]


def test_problems_of_a_machine_that_is_no_member() -> None:
    assert problems_of(None, JOINING, None) == []
    note = EvictionNote("shop", "web", "web-k7q2x-1", NOW)
    assert problems_of(None, replace(JOINING, refusal="group-gone"), note) == [
        Problem("group-gone", "joining as web-k7q2x-1 was refused", "run exclave join again to see why"),
        Problem(
            "evicted",
            "member shop/web-k7q2x-1 was evicted at 2027-01-15T08:00:00Z",
            "join again with a new token if it should be",
        ),
    ]


def test_rules_that_are_not_there_are_no_instance() -> None:
    parts = whole()
    assert parts.redirect is not None
    parts.redirect.observed.set(NOTHING)
    assert sections_of(parts)["proxy"]["active"] is None
