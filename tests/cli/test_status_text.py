"""What a person reads of a status or a failure, and what a script gets for it."""

from typing import Any

import pytest

from exclave.cli.status_text import exit_code, status_lines
from exclave.daemon.status import EMPTY, build_status
from exclave.errors import Fault, HostError, TokenError, bug_lines, bug_object, error_lines, error_object, find_error
from exclave.member.state import State

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def status(state: State, **sections: Any) -> dict[str, Any]:
    return build_status("1", state, NOW, sections, {}, {}, NOW)


@pytest.mark.parametrize(
    ("state", "ready", "code"),
    [
        (State.UNJOINED, False, 4),
        (State.JOINING, False, 4),
        (State.STARTING, False, 3),
        (State.PENDING, False, 3),
        (State.READY, True, 0),
        (State.FAILING, False, 3),
        (State.LEAVING, True, 3),  # it still says so, and pods will hear in a moment
        (State.STOPPING, True, 3),
        (State.EVICTED, True, 3),
        (State.ORPHANED, True, 0),  # it serves until its certificate ends
        (State.ORPHANED, False, 3),
    ],
)
def test_the_exit_code(state: State, ready: bool, code: int) -> None:
    assert exit_code(status(state, listing={"ready": ready})) == code


def test_an_unjoined_machine_is_one_line() -> None:
    assert status_lines(status(State.UNJOINED)) == [("state", "unjoined since 2027-01-15T08:00:00Z")]


WHOLE: dict[str, Any] = {
    "member": {"name": "web-k7q2x-1", "namespace": "shop", "group": "web"},
    "cluster": {"server": "https://10.0.0.1:6443", "reachable": True, "credentialExpires": "2027-02-14T08:00:00Z"},
    "certificate": {"notAfter": "2027-01-16T08:00:00Z", "renewAt": "2027-01-15T22:00:00Z"},
    "proxy": {"active": "b", "instances": {"a": {"state": "draining", "pid": 7}, "b": {"state": "active", "pid": 8}}},
    "redirect": {"installed": True, "matches": True, "captured": {"inbound": 3, "outbound": 4}},
    "listing": {
        "ports": [8080, 9090],
        "ready": True,
        "probes": [{"kind": "tcp", "port": 8080, "passing": True, "message": ""}],
    },
}


def test_a_ready_member_line_by_line() -> None:
    assert status_lines(status(State.READY, **WHOLE)) == [
        ("state", "ready since 2027-01-15T08:00:00Z"),
        ("member", "shop/web-k7q2x-1 of group web"),
        ("cluster", "https://10.0.0.1:6443 (reachable), credential until 2027-02-14T08:00:00Z"),
        ("certificate", "until 2027-01-16T08:00:00Z, renewal at 2027-01-15T22:00:00Z"),
        ("proxy a", "draining, process 7"),
        ("proxy b", "active, process 8, the rules point to it"),
        ("rules", "in place; connections captured: 3 in, 4 out"),
        ("listing", "ready, ports listed: 8080, 9090"),
        ("probe", "tcp 8080: passes"),
    ]


def test_a_problem_is_followed_by_its_hint() -> None:
    made = status(
        State.FAILING,
        member=WHOLE["member"],
        cluster=WHOLE["cluster"] | {"reachable": False},
        redirect={"installed": True, "matches": False},
        listing={
            "reason": "missing: proxy",
            "probes": [{"kind": "tcp", "port": 8080, "passing": False, "message": "connection refused"}],
        },
    )
    made["waiting"] = [{"for": "the proxy", "since": "2027-01-15T08:00:00Z"}]
    made["problems"] = [{"code": "proxy-unusable", "message": "it does not start", "hint": "see its log", "since": ""}]
    assert status_lines(made)[2:] == [
        ("cluster", "https://10.0.0.1:6443 (not reachable), credential until 2027-02-14T08:00:00Z"),
        ("rules", "not as wanted; connections captured: 0 in, 0 out"),
        ("listing", "not ready (missing: proxy), ports listed: none"),
        ("probe", "tcp 8080: connection refused"),
        ("waiting", "for the proxy since 2027-01-15T08:00:00Z"),
        ("problem", "it does not start"),
        ("to do", "see its log"),
    ]


def test_a_member_without_a_report_yet() -> None:
    lines = dict(status_lines(status(State.STARTING, member=WHOLE["member"], redirect={"installed": False})))
    assert lines["listing"] == "not ready (not reported yet), ports listed: none"
    assert lines["rules"] == "none; connections captured: 0 in, 0 out"


@pytest.mark.parametrize("section", EMPTY)
def test_a_section_may_be_empty(section: str) -> None:
    assert status_lines(status(State.STARTING, **{name: WHOLE.get(name, {}) for name in EMPTY if name != section}))


def test_a_failure_is_two_lines_or_one_object() -> None:
    error = HostError(Fault.DISK, "the disk is full", "free some space")
    assert error_lines(error) == "exclave: the disk is full\n  to do: free some space"
    assert error_object(33, "disk", error.message, error.hint) == {
        "error": {"code": 33, "word": "disk", "message": "the disk is full", "hint": "free some space"}
    }


class Group(Exception):
    """An exception group, as far as its shape goes, on every Python."""

    def __init__(self, *inner: BaseException) -> None:
        super().__init__("secret of the group")
        self.exceptions = inner


def test_a_bug_shows_types_and_places_and_no_exception_s_own_words() -> None:
    try:
        try:
            raise KeyError("secret of the cause")
        except KeyError as cause:
            raise ValueError("secret of the problem") from cause
    except ValueError as problem:
        shown = bug_lines(Group(problem))
    assert "secret of" not in shown
    lines = shown.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{__name__}.Group",
        "builtins.ValueError",
        "builtins.KeyError",
        "exclave: an unexpected error: this is a bug in exclave",
    ]
    assert lines[-1] == "  to do: report it with the lines above; they contain no secret"
    assert sum(line.startswith(f"  {__file__}:") and " in test_a_bug" in line for line in lines) == 2
    assert bug_object()["error"]["code"] == 1
    assert bug_object()["error"]["word"] == "bug"


def test_a_failure_is_found_anywhere_in_a_group() -> None:
    error = TokenError(Fault.TOKEN_EXPIRED, "", "")
    assert find_error(error) is error
    assert find_error(Group(ValueError(), Group(error))) is error
    assert find_error(Group(ValueError(), Group())) is None
