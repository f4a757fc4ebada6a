"""How far a join comes once the machine has joined, with agents of fixed replies and a systemctl of a few lines."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.vm import Vm
from exclave.api.join_token import encode_token
from exclave.cli import commands
from exclave.config import Config, Paths, ProxyConfig
from exclave.confirm.confirm import Unconfirmed, load_unconfirmed
from exclave.errors import Fault, HostError
from support.fake_replies import fake_replies, json_lines
from support.mesh import RECORD, unreachable_token
from support.registry import proxy_image, run_registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("folder")]


# The check before a join.

CHECK = commands._check
"""The check itself, which the other tests leave out."""


def test_without_capabilities_a_join_relies_on_an_agent_that_has_checked_the_host(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in exclave-join.service."""
    monkeypatch.setattr(commands, "can_change_network", lambda: False)
    monkeypatch.setattr("exclave.host_check.check.can_change_network", lambda: False)
    proxy = write_proxy(vm)
    config = Config(Paths(vm.state, vm.runtime), proxy=ProxyConfig(proxy, "nobody"))
    token = encode_token(unreachable_token())
    with fake_replies(vm.runtime, status_of("unjoined", "")) as asked:
        CHECK(token, config)
    assert asked == ["status"]
    proxy.unlink()
    with fake_replies(vm.runtime, status_of("unjoined", "")), pytest.raises(HostError) as refused:
        CHECK(token, config)
    assert refused.value.message == f"there is no proxy at {proxy}"  # before the token is used
    with pytest.raises(HostError) as refused:
        CHECK(token, config)
    assert refused.value.fault is Fault.NO_PRIVILEGE


def test_a_machine_without_a_proxy_installs_the_tokens_before_it_uses_the_token(
    vm: Vm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "can_change_network", lambda: False)
    monkeypatch.setattr("exclave.proxy_install.install.platform.machine", lambda: "x86_64")
    present = write_proxy(vm)
    binary, store = vm.runtime.parent / "lib/linkerd2-proxy", vm.runtime.parent / "proxies"
    config = Config(Paths(vm.state, vm.runtime), proxy=ProxyConfig(binary, "nobody", store=store))
    with run_registry() as registry, fake_replies(vm.runtime, *[status_of("unjoined", "")] * 2):
        proxy_image(registry, present.read_bytes())
        token = encode_token(replace(unreachable_token(), proxy_image=registry.image("linkerd/proxy:v2")))
        with pytest.raises(HostError) as refused:
            CHECK(token, config)
        assert refused.value.fault is Fault.DOWNLOAD
        token = encode_token(replace(unreachable_token(), proxy_image=registry.image()))
        CHECK(token, config)
    assert binary.read_bytes() == present.read_bytes()
    assert "this machine has no proxy yet; installing" in capsys.readouterr().err


def write_proxy(vm: Vm) -> Path:
    vm.runtime.mkdir(exist_ok=True)
    vm.runtime.parent.chmod(0o755)
    path = vm.runtime.parent / "proxy"
    path.write_text("#!/bin/sh\nexit 64\n")
    path.chmod(0o755)
    return path


# join, and the agent that is told.


def joined(vm: Vm, *arguments: str) -> int:
    """Join where that is done already, so that telling the agent is all that is left."""

    async def join(*_: object) -> object:
        return RECORD

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(commands, "join", join)
        return vm.run("join", "token", *arguments)


def notify(vm: Vm, answer: bytes, *arguments: str) -> int:
    with fake_replies(vm.runtime, answer) as asked:
        code = joined(vm, *arguments)
    assert asked == ["joined"]
    return code


STARTING, PENDING, READY = ({"state": state, "waiting": []} for state in ("starting", "pending", "ready"))
WAITING = {"state": "starting", "waiting": ["the proxy (it does not start)", "the rules"]}
UNJOINED = {"state": "unjoined", "waiting": ["somebody to run exclave join"]}  # it has not looked at the disk yet
EVICTED = {"state": "evicted", "waiting": []}


def test_it_returns_when_the_agent_is_ready_and_reports_each_state_and_wait_once(
    vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert notify(vm, json_lines(UNJOINED, STARTING, WAITING, WAITING, PENDING, READY)) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [
        "agent: starting",
        "waiting for the proxy (it does not start)",
        "agent: pending",
        "agent: ready",
    ]


@pytest.mark.parametrize(
    ("last", "state", "reason"),
    [
        (EVICTED, "evicted", "this machine is evicted"),
        (UNJOINED, "unjoined", "waiting for somebody to run exclave join"),
        (WAITING, "starting", "waiting for the proxy (it does not start)"),
    ],
    ids=["an eviction", "a leave meanwhile", "an agent that ends"],
)
def test_a_join_that_is_not_ready_in_the_end_is_3(
    last: dict[str, Any], state: str, reason: str, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert notify(vm, json_lines(STARTING, last), "--json") == 3
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["state"], json.loads(shown.out)["reason"]) == (state, reason)
    assert shown.err.splitlines()[-1] == f"joined, but not ready: {reason}; see why: exclave status"


PROBE = {"kind": "tcp", "port": 8080, "passing": False, "message": "connection refused"}


def status_of(state: str, reason: str, *probes: dict[str, Any]) -> bytes:
    return json_lines({"state": state, "listing": {"reason": reason, "probes": list(probes)}})


NOT_OVER: dict[str, tuple[bytes, int, str]] = {
    "nothing listens": (status_of("pending", "tcp 8080: connection refused", PROBE), 0, "tcp 8080: connection refused"),
    "one of two probes fails": (
        status_of("pending", "http 80: 500; tcp 8080: no", {**PROBE, "kind": "http", "port": 80}, PROBE),
        0,
        "http 80: 500; tcp 8080: no",
    ),
    "the ports are not listed": (
        status_of("pending", "the ports are not listed yet", PROBE),
        3,
        "waiting for the rules",
    ),
    "an admin has cordoned it": (status_of("pending", "an admin has put", PROBE), 3, "waiting for the rules"),
    "the data path is not complete": (status_of("starting", "tcp 8080: no", PROBE), 3, "waiting for the rules"),
    "the probes pass": (status_of("pending", "", {**PROBE, "passing": True}), 3, "waiting for the rules"),
    "the agent has ended": (b"", 3, "waiting for the rules"),
}


@pytest.mark.parametrize("name", NOT_OVER)
def test_after_its_time_a_join_is_done_only_if_the_application_alone_is_missing(
    name: str, vm: Vm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, code, reason = NOT_OVER[name]
    times = iter([0.0, 0.0, 1.0, 5.0])  # the last one is after the second answer
    monkeypatch.setattr(commands, "time", SimpleNamespace(monotonic=lambda: next(times), time=time.time))
    waiting = {"state": "pending", "waiting": ["the rules"]}
    with fake_replies(vm.runtime, json_lines(waiting, waiting, READY), answer) as asked:
        assert joined(vm, "--timeout", "5s", "--json") == code
    assert asked == ["joined", "status"]
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["state"], result["reason"]) == ("pending", reason)
    if code == 0:
        assert shown.err.splitlines()[-2:] == [
            f"joined, but pods send no traffic here yet: {reason}",
            "start the application; exclave status ends with 0 when this machine is ready",
        ]


def test_a_timeout_and_no_wait_exclude_each_other(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vm.run("join", "token", "--timeout", "5s", "--no-wait")
    assert "not allowed with argument --timeout" in capsys.readouterr().err


def test_no_wait_returns_when_the_agent_is_notified(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    assert notify(vm, json_lines(UNJOINED), "--no-wait") == 0
    assert "agent" not in capsys.readouterr().err


def test_a_join_with_confirm_stores_the_time_of_unconfirmed_rules(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    assert notify(vm, json_lines(READY), "--confirm", "60s") == 0
    assert load_unconfirmed(vm.state) == Unconfirmed(60.0)
    assert capsys.readouterr().err.splitlines()[1:3] == [
        "the rules are removed 60s after they are installed, unless you confirm them:",
        "check with a new login that this machine is reachable, then: exclave confirm",
    ]


# The unit.


@contextmanager
def systemd(folder: Path, *, has_unit: bool = True, is_enabled: bool = True, fails: bool = False) -> Iterator[Path]:
    """A systemctl whose unit is the agent of ready_agent.py, and a folder as systemd makes it."""
    agent = Path(__file__).with_name("ready_agent.py")
    start = f"exec {shlex.quote(sys.executable)} {agent} {folder}/vm-run/control.sock > /dev/null 2>&1"
    (folder / "bin/systemctl").write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/trace\n'
        f"case $1 in cat) exit {int(not has_unit)};; is-enabled) exit {int(not is_enabled)};; "
        f"is-failed) exit {int(not fails)};; start) {'exit 0' if fails else start};; esac\n"
    )
    (folder / "bin/systemctl").chmod(0o755)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(commands, "is_booted", lambda: True)
        yield folder / "trace"


def test_a_unit_is_started_where_there_is_one(folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with systemd(folder) as trace:
        assert joined(vm) == 0
    assert trace.read_text().splitlines()[:3] == [
        "cat exclave-of-a-test.service",
        "is-enabled --quiet exclave-of-a-test.service",
        "start --no-block exclave-of-a-test.service",
    ]
    assert capsys.readouterr().err.splitlines()[1:] == ["starting exclave-of-a-test.service", "agent: ready"]


def test_no_wait_does_not_wait_for_the_unit_either(folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with systemd(folder, fails=True) as trace:
        assert joined(vm, "--no-wait", "--json") == 0
    assert trace.read_text().splitlines()[-1] == "start --no-block exclave-of-a-test.service"
    assert json.loads(capsys.readouterr().out)["state"] is None


def test_a_unit_that_is_not_enabled_is_mentioned(folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with systemd(folder, is_enabled=False):
        assert joined(vm) == 0
    unit = "exclave-of-a-test.service"
    expected = f"{unit} does not start at boot; to change that: systemctl enable {unit}"
    assert capsys.readouterr().err.splitlines()[2] == expected


def test_a_unit_that_fails_is_3_at_once(folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    with systemd(folder, fails=True):
        assert joined(vm, "--json") == 3
    shown = capsys.readouterr()
    reason = "the agent of exclave-of-a-test.service does not answer"
    assert json.loads(shown.out)["reason"] == reason
    assert shown.err.splitlines()[-1] == f"{reason}; see why: systemctl status exclave-of-a-test.service"


def test_without_the_unit_it_names_the_command_to_run_the_agent(
    folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    with systemd(folder, has_unit=False):
        assert joined(vm) == 0
    assert capsys.readouterr().err.splitlines()[1:] == ["no agent runs on this machine; start it: exclave run"]
