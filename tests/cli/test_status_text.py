"""A status as lines for a person, and as an exit code for a script."""

import contextlib
import os
import pty
import re
from collections.abc import Sequence
from typing import Any

import pytest

from exclave.cli.status_text import INDENT, exit_code, print_lines, status_lines
from exclave.daemon.status import EMPTY, build_status
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


def test_an_unjoined_machine_shows_how_to_join() -> None:
    assert status_lines(status(State.UNJOINED)) == [
        ("state", "unjoined since 2027-01-15T08:00:00Z"),
        ("to do", "nothing on this machine is changed; to join a mesh: exclave join"),
    ]


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


def test_what_the_cluster_said_last_has_its_time() -> None:
    lines = dict(
        status_lines(
            status(
                State.READY,
                member=WHOLE["member"],
                cluster=WHOLE["cluster"] | {"reachable": False, "answered": "2027-01-15T07:00:00Z"},
                listing=WHOLE["listing"] | {"asOf": "2027-01-15T07:00:00Z"},
            )
        )
    )
    assert lines["cluster"].startswith(
        "https://10.0.0.1:6443 (not reachable, last answer at 2027-01-15T07:00:00Z), credential until"
    )
    assert lines["listing"] == (
        "ready, ports listed: 8080, 9090, by the cluster's last answer to an earlier agent, at 2027-01-15T07:00:00Z"
    )


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


LINES = [("state", "ready since 2027"), ("to do", "[bold]nothing[/bold] at all")]
BOLD, RESET = "\x1b[1m", "\x1b[0m"


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, lines: Sequence[tuple[str, str]], columns: int = 80, **environment: str
) -> str:
    """What a terminal of this width shows."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), **environment}.items():
        monkeypatch.setenv(name, value)
    screen, line = pty.openpty()
    with os.fdopen(line, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        print_lines(lines)
    shown = b""
    with os.fdopen(screen, "rb", buffering=0) as master, contextlib.suppress(OSError):  # EIO is a terminal's end
        while piece := master.read(65536):
            shown += piece
    return shown.decode().replace("\r\n", "\n")


FORGED = [("problem", "no\nstate:       ready\x1b[1A\u202e")]


def test_what_servers_and_machines_report_forges_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_lines(FORGED)
    assert capsys.readouterr().out == "problem:     " + r"no\nstate: \x20\x20\x20\x20\x20\x20ready\x1b[1A\u202e" + "\n"
    shown = on_a_terminal(monkeypatch, FORGED, NO_COLOR="1")
    assert all(line.startswith(("problem: ", " " * INDENT)) for line in shown.splitlines())
    assert "\x1b" not in shown


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(LINES)
    assert capsys.readouterr().out == "state:       ready since 2027\nto do:       [bold]nothing[/bold] at all\n"


def test_a_terminal_gets_coloured_labels_and_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(monkeypatch, LINES)
    assert f"{BOLD}state:       {RESET}" in shown
    plain = [" ".join(line.split()) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    assert plain == ["state: ready since 2027", "to do: [bold]nothing[/bold] at all"]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb terminal"])
def test_colours_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    assert on_a_terminal(monkeypatch, LINES[:1], **environment) == "state:       ready since 2027\n"


def test_a_long_text_is_wrapped_beside_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [("problem", "the API server at https://api.example.com:6443 is not reachable"), ("state", "")]
    assert on_a_terminal(monkeypatch, lines, columns=40, NO_COLOR="1") == (
        "problem:     the API server at\n"
        "             https://api.example.com:6443\n"
        "             is not reachable\n"
        "state:       \n"
    )
