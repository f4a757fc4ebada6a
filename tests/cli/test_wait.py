"""`exclave wait`: at boot, before the agent, beside one that starts, and on a machine that is no member."""

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.cli import main as cli
from exclave.cli import wait
from exclave.kit.host.files import make_folder
from exclave.member.record import (
    JoinRecord,
    forget_join,
    forget_membership,
    store_join,
    store_membership,
)
from support.fake_replies import fake_replies, json_lines
from support.mesh import RECORD

REDIRECTED = json_lines({"redirected": True, "waiting": []})
JOINING = JoinRecord("nonce", "web-k7q2x-1", "ab" * 32, "a private key")
STARTING = {"redirected": False, "waiting": ["the proxy"]}


class Host:
    """A machine: its folders, and the command."""

    def __init__(self, folder: Path) -> None:
        self.state, self.runtime, self._config = folder / "state", folder / "run", folder / "config.toml"
        self._config.write_text(f'[paths]\nstate = "{self.state}"\nruntime = "{self.runtime}"\n')
        make_folder(self.state, 0o700)

    def wait(self, timeout: str, *options: str) -> int:
        return cli.main(["wait", "--timeout", timeout, "--config", str(self._config), *options])


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with tempfile.TemporaryDirectory() as folder:  # short names: a socket's path has 107 characters
        yield Host(Path(folder))


@pytest.fixture
def member(host: Host) -> Host:
    store_membership(host.state, RECORD)
    return host


def test_a_machine_that_is_no_member_waits_for_nobody(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.wait("60s") == 0
    assert capsys.readouterr() == ("this machine is not a member\n", "")
    assert host.wait("60s", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"member": False, "redirected": False}


def test_a_join_that_is_tried_again_is_waited_for(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """At an image's first boot, a join that failed once is tried again. Applications must not start in plaintext."""
    store_join(host.state, JOINING)
    assert host.wait("10ms") == 3
    assert capsys.readouterr().err == (
        "exclave: this machine began to join, and is not a member after 10ms\n"
        "  to do: see why: journalctl -u exclave-join; or give the join up: exclave leave\n"
    )
    store_join(host.state, replace(JOINING, refusal="group-gone"))
    assert host.wait("10ms") == 0


@pytest.mark.parametrize(("state", "code"), [("activating", 3), ("failed", 0), ("inactive", 0)])
def test_a_join_that_failed_before_it_began_is_waited_for_while_systemd_tries_it_again(
    state: str, code: int, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For instance because the proxy's binary is not there yet."""
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\n[ "$4" != exclave-join.service ] || echo {state}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("exclave.kit.systemd.service_job.SYSTEMD", tmp_path)
    assert host.wait("10ms") == code


def test_a_join_that_ends_during_the_wait_is_followed_to_its_traffic(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(_: float) -> None:
        store_membership(host.state, RECORD)
        forget_join(host.state)

    store_join(host.state, JOINING)
    monkeypatch.setattr(wait.time, "sleep", finish)
    with fake_replies(host.runtime, b"", REDIRECTED) as commands:
        assert host.wait("60s") == 0
    assert commands == ["redirected"] * 2


def test_it_returns_when_the_agent_reports_that_traffic_is_redirected(
    member: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_replies(member.runtime, json_lines(STARTING, STARTING) + REDIRECTED) as commands:
        assert member.wait("60s") == 0
    assert commands == ["redirected"]
    assert capsys.readouterr() == ("traffic of this machine goes through the mesh\n", "")


def test_an_agent_that_does_not_run_yet_is_waited_for(member: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens its socket while the command pauses."""
    pauses: list[float] = []
    may_serve, served = threading.Event(), threading.Event()

    def serve() -> None:
        may_serve.wait(60)
        with fake_replies(member.runtime, b"", REDIRECTED):
            served.set()

    server = threading.Thread(target=serve)
    server.start()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        may_serve.set()
        served.wait(60)

    monkeypatch.setattr(wait.time, "sleep", pause)
    assert member.wait("60s") == 0
    server.join()
    assert pauses == [wait.RETRY_INTERVAL] * 2  # without a socket, and after an agent that ended at once


def test_a_leave_ends_the_wait(member: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait.time, "sleep", lambda _: forget_membership(member.state))
    assert member.wait("60s") == 0


@pytest.mark.parametrize(
    ("replies", "code", "message"),
    [
        ((), 5, "no agent answered within 200ms"),
        (
            (json_lines(STARTING),),
            3,
            "traffic does not go through the mesh after 200ms: waiting for the proxy",
        ),
        (
            (json_lines({"error": {"message": "no such command"}}),),
            3,
            "traffic does not go through the mesh after 200ms: waiting for an unknown step: the running agent is "
            "another version",
        ),
    ],
)
def test_a_wait_that_is_too_long_has_its_code_and_says_what_is_missing(
    member: Host, capsys: pytest.CaptureFixture[str], replies: tuple[bytes, ...], code: int, message: str
) -> None:
    with fake_replies(member.runtime, *replies):
        assert member.wait("200ms", "--json") == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["message"]) == (code, message)


def test_a_failure_is_two_lines_for_a_person(member: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert member.wait("10ms") == 5
    assert capsys.readouterr().err == (
        "exclave: no agent answered within 10ms\n  to do: start it: systemctl start exclave; or exclave run\n"
    )


def test_it_needs_root(member: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert member.wait("1s") == 30
    assert capsys.readouterr().err.startswith("exclave: waiting for the agent needs root\n")
