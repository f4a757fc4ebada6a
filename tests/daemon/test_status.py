"""The status as one object: every key always, times in UTC, waits once they last, problems at once."""

from dataclasses import replace

import pytest

from exclave.daemon.status import EMPTY, QUIET, FirstObserved, Problem, build_status, problem_of, status_line
from exclave.errors import Fault, HostError
from exclave.member.state import State

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
PROBLEM = Problem("disk", "the disk is full", "free some space")

SECTIONS = ["member", "cluster", "certificate", "proxy", "redirect", "listing", "names", "metrics"]


def test_a_machine_where_nothing_runs_has_every_key() -> None:
    status = build_status("1.2", State.UNJOINED, NOW - 60, {}, {}, {}, NOW)
    assert list(status) == ["version", "state", "since", *SECTIONS, "waiting", "problems"]
    assert (status["version"], status["state"], status["since"]) == ("1.2", "unjoined", "2027-01-15T07:59:00Z")
    assert {name: status[name] for name in EMPTY} == EMPTY
    assert (status["waiting"], status["problems"]) == ([], [])


# The names are a contract with scripts.
@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("member", {"name", "namespace", "group"}),
        ("cluster", {"server", "reachable", "answered", "credentialExpires", "settings"}),
        ("certificate", {"notAfter", "renewAt", "issuer", "anchors"}),
        ("proxy", {"active", "instances"}),
        ("redirect", {"installed", "matches", "captured"}),
        ("listing", {"serving", "ports", "ready", "reason", "probes", "asOf"}),
    ],
)
def test_the_keys_of_a_section(section: str, keys: set[str]) -> None:
    assert set(EMPTY[section]) == keys


def test_a_section_with_some_values_has_the_others_empty() -> None:
    status = build_status("1", State.STARTING, NOW, {"cluster": {"server": "https://s", "reachable": False}}, {}, {}, 0)
    assert status["cluster"] == {
        "server": "https://s",
        "reachable": False,
        "answered": None,
        "credentialExpires": None,
        "settings": None,
    }
    assert EMPTY["cluster"]["server"] is None


def test_a_wait_is_listed_when_it_has_lasted_the_longest_first() -> None:
    waits = {"a certificate": NOW - QUIET, "the proxy": NOW - QUIET + 0.1, "the API server": NOW - 60}
    assert build_status("1", State.STARTING, NOW, {}, waits, {}, NOW)["waiting"] == [
        {"for": "the API server", "since": "2027-01-15T07:59:00Z"},
        {"for": "a certificate", "since": "2027-01-15T07:59:45Z"},
    ]


def test_a_problem_is_listed_at_once_the_oldest_first() -> None:
    problems = {PROBLEM: NOW, replace(PROBLEM, code="taken"): NOW - 60}
    told = build_status("1", State.FAILING, NOW, {}, {}, problems, NOW)["problems"]
    assert [each["code"] for each in told] == ["taken", "disk"]
    assert told[1] == {
        "code": "disk",
        "message": "the disk is full",
        "hint": "free some space",
        "since": "2027-01-15T08:00:00Z",
    }


def test_a_thing_has_the_time_of_its_first_observation_until_it_ends() -> None:
    sightings = FirstObserved()
    assert sightings.observe(["a"], 1.0) == {"a": 1.0}
    assert sightings.observe(["b", "a"], 2.0) == {"b": 2.0, "a": 1.0}
    assert sightings.observe(["b"], 3.0) == {"b": 2.0}
    assert sightings.observe(["a"], 4.0) == {"a": 4.0}


def test_a_reader_cannot_change_the_observations() -> None:
    sightings = FirstObserved()
    sightings.observe(["a"], 1.0).clear()
    assert sightings.observe(["a"], 2.0) == {"a": 1.0}


def test_an_error_is_a_problem_by_its_fixed_word() -> None:
    assert problem_of(HostError(Fault.DISK, "the disk is full", "free some space")) == PROBLEM


@pytest.mark.parametrize(
    ("state", "is_member", "waits", "problems", "line"),
    [
        (
            State.UNJOINED,
            False,
            ["somebody to run exclave join"],
            [],
            "unjoined: idle, and nothing on this machine is changed; to join a mesh: exclave join",
        ),
        (State.UNJOINED, False, [], [PROBLEM], "unjoined; problem: the disk is full"),
        (State.READY, True, [], [], "ready, member shop/web-k7q2x-1"),
        (State.STARTING, True, ["a", "b"], [], "starting, member shop/web-k7q2x-1; waiting for a"),
        (State.READY, True, ["a"], [PROBLEM], "ready, member shop/web-k7q2x-1; problem: the disk is full"),
        (
            State.FAILING,
            True,
            [],
            [PROBLEM, PROBLEM, PROBLEM],
            "failing, member shop/web-k7q2x-1; problem: the disk is full (and 2 more: exclave status)",
        ),
    ],
)
def test_the_line_for_systemd(
    state: State, is_member: bool, waits: list[str], problems: list[Problem], line: str
) -> None:
    member = {"name": "web-k7q2x-1", "namespace": "shop", "group": "web"} if is_member else {}
    assert status_line(state, member, waits, problems) == line
