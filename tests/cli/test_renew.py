"""`exclave renew` with agents of fixed replies."""

import json

import pytest

from cli.vm import Vm
from exclave.errors import error_object
from support.fake_replies import fake_replies, json_lines

RENEWING = {"renewing": True}
RENEWED = {"renewed": {"serial": "7a", "notAfter": "2027-01-16T08:00:00Z"}}
REFUSED = error_object(26, "not-admitted", "no certificate is signed: the issuer has expired", "kubectl exclave check")


@pytest.fixture(autouse=True)
def member(vm: Vm) -> None:
    vm.be_member()


def test_a_renewal_ends_with_0_and_the_new_end(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(vm.runtime, *[json_lines(RENEWING, RENEWING, RENEWED)] * 2) as commands:
        assert vm.run("renew") == 0
        assert capsys.readouterr() == ("", "renewed: the new certificate ends at 2027-01-16T08:00:00Z\n")
        assert vm.run("renew", "--json") == 0
        assert json.loads(capsys.readouterr().out) == RENEWED
    assert commands == ["renew", "renew"]


def test_a_refusal_ends_with_its_code(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(vm.runtime, *[json_lines(RENEWING, REFUSED)] * 2):
        assert vm.run("renew") == 26
        assert capsys.readouterr().err == (
            "exclave: no certificate is signed: the issuer has expired\n  to do: kubectl exclave check\n"
        )
        assert vm.run("renew", "--json") == 26
        assert json.loads(capsys.readouterr().out) == REFUSED


def test_a_request_too_soon_after_the_last_signature_is_3(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(vm.runtime, json_lines(RENEWING, {"tooSoon": 48})):
        assert vm.run("renew") == 3
    assert capsys.readouterr().err == (
        "exclave: not renewed: the last certificate was signed less than a minute ago\n  to do: try again in 48 s\n"
    )


def test_no_outcome_in_time_is_3_although_the_agent_goes_on(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(vm.runtime, json_lines(RENEWING, RENEWING, RENEWED)):
        assert vm.run("renew", "--timeout", "0s", "--json") == 3
    assert json.loads(capsys.readouterr().out)["error"] == {
        "code": 3,
        "word": "not-in-time",
        "message": "no new certificate within 0s; the agent goes on trying",
        "hint": "see why: exclave status",
    }


def test_without_an_agent_or_with_one_that_ends_meanwhile_it_is_5(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    assert vm.run("renew") == 5
    with fake_replies(vm.runtime, json_lines(RENEWING)):
        assert vm.run("renew", "--json") == 5
    assert json.loads(capsys.readouterr().out)["error"]["word"] == "no-agent"


def test_an_older_agent_is_an_error(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(vm.runtime, json_lines({"error": {"message": "no such command"}})):
        assert vm.run("renew") == 35
    assert capsys.readouterr().err.startswith(
        "exclave: the running agent is an older version, which cannot renew on request\n"
    )


def test_on_a_machine_that_is_no_member_it_is_4(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    (vm.state / "membership.json").unlink()
    with fake_replies(vm.runtime) as commands:
        assert vm.run("renew") == 4
    assert commands == []
    assert capsys.readouterr().err == "exclave: this machine is not a member\n  to do: exclave join\n"
