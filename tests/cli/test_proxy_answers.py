"""`exclave proxy metrics` and `exclave proxy identity`, with admin servers at the addresses of the instances."""

import json
import time
from collections.abc import Sequence

import pytest
from cryptography import x509

from cli.vm import Vm
from exclave.api.settings import render_settings
from exclave.cli import proxy_answers
from exclave.cli.proxy_answers import fetch_identity, fetch_page
from exclave.daemon.status import build_status
from exclave.errors import HostError
from exclave.kit.formats.x509 import CertificateFields, fields_of
from exclave.link.layout import ADMIN_PORT, INSTANCES, Instance
from exclave.member.record import store_settings
from exclave.member.state import State
from proxy.admin import SERVER_NAME, admin
from support.fake_replies import fake_replies, json_lines
from support.mesh import IDENTITY, make_settings, mesh
from support.network_namespace import in_network_namespace

A, B = "169.254.77.1", "169.254.77.2"
PAGE = "process_start_time_seconds 1\n"
SVID = mesh().svid(time.time())
LEAF = fields_of(x509.load_der_x509_certificate(SVID.chain[0]))


@in_network_namespace(A, B)
async def test_the_first_instance_that_answers_shows_its_metrics() -> None:
    async with admin(200, PAGE, host=B, port=ADMIN_PORT):
        assert await fetch_page(INSTANCES) == ("b", PAGE)
        async with admin(503, "of a\n", host=A, port=ADMIN_PORT):  # one that is not ready yet has metrics, too
            assert await fetch_page(INSTANCES) == ("a", "of a\n")


@in_network_namespace(A, B)
async def test_no_other_instance_answers_for_the_chosen_one() -> None:
    async with admin(200, PAGE, host=B, port=ADMIN_PORT) as served:
        served.load(SVID)
        with pytest.raises(HostError, match="proxy a does not answer on port 4191"):
            await fetch_page(("a",))
        with pytest.raises(HostError, match="proxy a does not answer on port 4191"):
            await fetch_identity(("a",), SERVER_NAME)


@in_network_namespace(A, B)
async def test_metrics_that_a_policy_forbids_are_an_error_that_names_the_remedy() -> None:
    async with admin(200, PAGE, host=A, port=ADMIN_PORT) as served:
        served.refused = frozenset({"/metrics"})
        with pytest.raises(HostError, match="a policy forbids the metrics of proxy a") as caught:
            await fetch_page(INSTANCES)
    assert caught.value.hint == "the Server that selects port 4191 needs a route for /metrics"


@in_network_namespace(A, B)
async def test_the_identity_is_that_of_a_handshake_which_no_policy_forbids() -> None:
    async with admin(200, PAGE, host=B, port=ADMIN_PORT) as served:
        served.load(SVID)
        served.refused = frozenset({"/metrics", "/ready"})
        assert await fetch_identity(INSTANCES, SERVER_NAME) == ("b", LEAF)
    assert served.handshakes == 1


@in_network_namespace(A, B)
async def test_without_a_proxy_there_is_no_identity() -> None:
    with pytest.raises(HostError, match="no proxy of this machine answers on port 4191"):
        await fetch_identity(INSTANCES, SERVER_NAME)


@pytest.fixture
def asked(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Instance, ...]]:
    """The instances that were asked, by each command. All answer."""
    found: list[tuple[Instance, ...]] = []

    async def answer_page(candidates: Sequence[Instance]) -> tuple[Instance, str]:
        found.append(tuple(candidates))
        return candidates[0], PAGE

    async def answer_identity(candidates: Sequence[Instance], server_name: str) -> tuple[Instance, CertificateFields]:
        assert server_name == SERVER_NAME
        found.append(tuple(candidates))
        return candidates[0], LEAF

    monkeypatch.setattr(proxy_answers, "fetch_page", answer_page)
    monkeypatch.setattr(proxy_answers, "fetch_identity", answer_identity)
    vm.be_member()
    store_settings(vm.state, render_settings(make_settings()))
    return found


def test_the_instance_that_the_rules_point_to_is_asked(
    asked: list[tuple[Instance, ...]], vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    for active in ("b", None):
        status = build_status("1", State.READY, 0.0, {"proxy": {"active": active}}, {}, {}, 0.0)
        with fake_replies(vm.runtime, json_lines(status)):
            assert vm.run("proxy", "metrics") == 0
    assert vm.run("proxy", "metrics") == 0  # no agent
    assert vm.run("proxy", "metrics", "--instance", "a") == 0
    assert asked == [("b",), ("a", "b"), ("a", "b"), ("a",)]
    assert capsys.readouterr() == (PAGE * 4, "")
    assert vm.run("proxy", "metrics", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"instance": "a", "metrics": PAGE}


def test_the_identity_is_printed_with_names_issuer_serial_and_times(
    asked: list[tuple[Instance, ...]], vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vm.run("proxy", "identity") == 0
    assert capsys.readouterr().out.splitlines() == [
        "proxy:       a",
        f"name:        {IDENTITY.dns_name}",
        f"name:        {IDENTITY.spiffe_id}",
        f"subject:     {LEAF.subject}",
        f"issuer:      {LEAF.issuer}",
        f"serial:      {LEAF.serial}",
        f"valid:       from {LEAF.not_before} until {LEAF.not_after}",
        f"sha256:      {LEAF.sha256}",
    ]
    assert vm.run("proxy", "identity", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"instance": "a", "identity": LEAF.as_json()}


def test_a_machine_that_is_no_member_has_no_proxy(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    assert vm.run("proxy", "identity") == 32
    assert capsys.readouterr().err == (
        "exclave: this machine has no proxy: it is no member\n  to do: to join a mesh: exclave join\n"
    )


@pytest.mark.parametrize("words", [("swap", "--instance", "a"), ("metrics", "--force")], ids=["swap", "metrics"])
def test_an_option_of_another_verb_is_an_error(
    words: tuple[str, ...], vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        vm.run("proxy", *words)
    assert ended.value.code == 2
    assert f"unrecognized arguments: {words[1]}" in capsys.readouterr().err
