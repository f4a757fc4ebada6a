"""Joining against a real API server over real TLS, with every way in which it may be interrupted or refused."""

import errno
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from exclave.api.join_token import JoinToken, encode_token
from exclave.api.requests import CLUSTER_ROLE_BINDINGS, CONFIG_MAPS, LEASES, MEMBERS, delete, patch
from exclave.api.settings import render_settings
from exclave.cluster.endpoint import ServerAddress, host_and_port
from exclave.cluster.http import Exchange
from exclave.cluster.server_addresses import open_server_addresses
from exclave.config import Config, MemberConfig, Paths
from exclave.errors import ExclaveError, Fault, TokenError
from exclave.identity.storage import load_svid
from exclave.join import refusals
from exclave.join.join import join
from exclave.member.record import load_join, load_membership, load_settings, store_eviction
from exclave_sandbox.pki import make_anchor, make_issuer
from support.faults import NameServers
from support.mesh import ADDRESS, NAMESPACE, RECORD, make_settings

from .fake_controller import FakeController, open_fake_controller

FIRST = "web-k7q2x-1"


def make_config(folder: Path) -> Config:
    return Config(paths=Paths(folder / "state", folder / "run"), member=MemberConfig(ADDRESS))


async def join_here(token: JoinToken, config: Config, now: Callable[[], float] = time.time) -> list[str]:
    lines: list[str] = []
    with trio.fail_after(60):
        await join(encode_token(token), config, now, lines.append)
    return lines


class Requests:
    """The requests that joining sends, those of the controller left out; `before` and `after` see each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, controller: FakeController) -> None:
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        whole = Exchange.answer

        async def answer(exchange: Exchange, request: Any, fence: Any = None) -> Any:
            if exchange._token() == controller.api.admin_token:
                return await whole(exchange, request, fence)
            line = f"{request.verb} {request.what}"
            self.before(line)
            self.asked.append(line)
            try:
                return await whole(exchange, request, fence)
            finally:
                self.after(line)

        monkeypatch.setattr(Exchange, "answer", answer)


async def test_a_token_makes_a_machine_a_member(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    state = config.paths.state
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        note_eviction_of_an_earlier_life(state)
        lines = await join_here(token, config)
        membership = load_membership(state)
        assert membership is not None
        assert (membership.namespace, membership.group, membership.member) == (NAMESPACE, "web", FIRST)
        assert (membership.servers, membership.ca, membership.address) == (token.servers, token.ca, ADDRESS)
        assert sorted(path.name for path in state.iterdir()) == [
            "credential.json",
            "membership.json",
            "settings.json",
            "svid.json",
        ]
        stored = load_settings(state)
        assert stored is not None and stored[0] == controller.settings
        assert load_svid(state) is not None
        lease = await controller.find(LEASES, FIRST)
        assert lease is not None and lease["spec"]["renewTime"]
        assert lines == [
            f"address: [chosen={ADDRESS} why=configured]",
            f"Member shop/{FIRST} stands, waiting for the controller to admit it",
            f"admitted as {FIRST}; the credential is stored",
            "certificate for spiffe://cluster.local/ns/shop/sa/web",
            f"joined as shop/{FIRST}",
        ]
        (view,) = controller.members()
        assert (view.addresses, view.serving, view.data_path) == ((ADDRESS,), False, "down")


async def test_a_join_stores_where_the_api_server_s_name_leads(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    NameServers(localhost=("127.0.0.1",), silent_test=None)
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        named = token.servers[0].replace("127.0.0.1", "localhost")
        await join_here(replace(token, servers=(named, *token.servers, "https://silent.test")), config)
    async with open_server_addresses((named,), config.paths.state) as latest:
        assert latest.value == (ServerAddress("127.0.0.1", host_and_port(named)[1]),)
    assert json.loads((config.paths.state / "server-addresses.json").read_text()) == {named: ["127.0.0.1"]}


def note_eviction_of_an_earlier_life(state: Path) -> None:
    state.mkdir(mode=0o700)
    store_eviction(state, RECORD, 1.0)


async def test_files_are_for_root_only_and_hold_no_join_token(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        await join_here(token, config)
    assert config.paths.state.stat().st_mode & 0o777 == 0o700
    for path in config.paths.state.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
        assert token.token not in path.read_text()


async def test_joining_needs_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        requests = Requests(monkeypatch, controller)
        await join_here(token, make_config(tmp_path))
    first, *polls, settings, heartbeat = requests.asked
    assert first == f"create members {FIRST}"
    assert set(polls) == {f"get members {FIRST}"}
    assert (settings, heartbeat) == ("get configmaps exclave-mesh.web", f"patch leases {FIRST}")
    assert len(requests.asked) <= 10


async def test_names_of_other_machines_are_skipped(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token(uses=3)
        for number in range(1, 4):
            config = make_config(tmp_path / str(number))
            await join_here(token, config)
            membership = load_membership(config.paths.state)
            assert membership is not None and membership.member == f"web-k7q2x-{number}"
        with pytest.raises(TokenError) as caught:
            await join_here(token, make_config(tmp_path / "4"))
        assert (caught.value.fault, caught.value.message, caught.value.hint) == (
            Fault.TOKEN_USED_UP,
            "the join token for group shop/web is used up: all 3 of its names are taken by other machines",
            "ask the admin for a new one: kubectl exclave token create web",
        )
        await controller.admin.send(delete(MEMBERS, NAMESPACE, "web-k7q2x-2"))
        await join_here(token, make_config(tmp_path / "4"))  # the same machine, again: a name is free now


class Killed(BaseException):
    """kill -9, as far as code can tell."""


class Killer:
    """Ends the process at point `at`: before effect n (even, 2n) or after it (odd). Effects: files and requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, requests: Requests) -> None:
        self.at: int | None = None
        self.point = 0
        replace_file, unlink = Path.replace, Path.unlink

        def replacing(path: Path, target: Path) -> Any:
            self.pass_by()
            done = replace_file(path, target)
            self.pass_by()
            return done

        def unlinking(path: Path, missing_ok: bool = False) -> None:
            self.pass_by()
            unlink(path, missing_ok)
            self.pass_by()

        monkeypatch.setattr(Path, "replace", replacing)
        monkeypatch.setattr(Path, "unlink", unlinking)
        requests.before = requests.after = lambda _: self.pass_by()

    def arm(self, at: int) -> None:
        self.at, self.point = at, 0

    def pass_by(self) -> None:
        if self.at is not None and self.point == self.at:
            self.at = None
            raise Killed
        self.point += 1


async def was_killed(token: JoinToken, config: Config) -> bool:
    """Join, and say whether that was cut short."""
    try:
        await join_here(token, config)
    except BaseException as problem:
        if not _is_killed(problem):
            raise
        return True
    return False


def _is_killed(problem: BaseException) -> bool:
    return isinstance(problem, Killed) or any(map(_is_killed, getattr(problem, "exceptions", ())))


@pytest.mark.slow
async def test_a_machine_killed_at_any_point_joins_with_the_same_token_and_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_fake_controller(tmp_path) as controller:
        killer = Killer(monkeypatch, Requests(monkeypatch, controller))
        point = 0
        while True:
            token = await controller.join_token(uses=2, token_id=f"a{point:04}")
            config = make_config(tmp_path / str(point))
            killer.arm(point)
            killed = await was_killed(token, config)
            killer.at = None
            if not killed:
                break
            done_already = load_membership(config.paths.state) and not load_join(config.paths.state)
            if done_already:
                assert (await fail_to_join(token, config))[0] is Fault.ALREADY_MEMBER
            else:
                await join_here(token, config)
            membership = load_membership(config.paths.state)
            assert membership is not None and membership.member == f"web-a{point:04}-1", point
            assert load_svid(config.paths.state) is not None, point
            assert load_settings(config.paths.state) is not None, point
            assert load_join(config.paths.state) is None, point
            assert await controller.token_of("shop-vms", membership.account), point
            point += 1
        assert point > 30
        assert {view.name for view in controller.members()} == {f"web-a{n:04}-1" for n in range(point + 1)}


async def test_a_machine_whose_credential_died_before_it_was_used_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        requests = Requests(monkeypatch, controller)

        def kill(line: str) -> None:
            if line.startswith("patch leases"):
                raise Killed

        requests.before = kill
        assert await was_killed(token, config)
        requests.before = lambda _: None
        await controller.revoke("web.vm.k7q2x-1")  # the controller gave it up for abandoned
        await controller.admin.send(delete(MEMBERS, NAMESPACE, FIRST))
        await join_here(token, config)
        assert load_membership(config.paths.state) is not None and load_svid(config.paths.state) is not None


async def test_a_member_that_was_deleted_while_we_waited_is_made_again(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        controller.admits = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join_here, token, make_config(tmp_path))
            await controller.wait_member()
            controller.admits = True
            await controller.admin.send(delete(MEMBERS, NAMESPACE, FIRST))
        assert [view.name for view in controller.members()] == [FIRST]


async def test_an_outage_while_waiting_is_waited_out(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        controller.admits = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join_here, token, make_config(tmp_path))
            await controller.wait_member()
            await controller.api.server.close()
            await trio.sleep(0.2)
            await controller.api.server.open()
            controller.admits = True
            await controller.admit(controller.members()[0])
        assert load_membership(make_config(tmp_path).paths.state) is not None


Told = tuple[Fault, str, str]

REFUSALS: dict[str, tuple[tuple[str, str], Told]] = {
    "the group is gone": (
        ("GroupNotFound", "there is no WorkloadGroup shop/web"),
        (
            Fault.GROUP_GONE,
            "group shop/web is gone: there is no WorkloadGroup shop/web",
            "ask the admin for a token of another group",
        ),
    ),
    "the address is outside": (
        ("AddressRefused", "10.77.0.20 lies in none of 10.0.0.0/16"),
        (
            Fault.ADDRESS_REFUSED,
            "address 10.77.0.20 was refused: 10.77.0.20 lies in none of 10.0.0.0/16",
            "name another one: member.address in /etc/exclave/config.toml; or change the group's networks",
        ),
    ),
    "the address is in use": (
        ("AddressInUse", "living member shop/web-aaaaa-1 has it"),
        (
            Fault.ADDRESS_REFUSED,
            "address 10.77.0.20 was refused: living member shop/web-aaaaa-1 has it",
            "name another one: member.address in /etc/exclave/config.toml; or change the group's networks",
        ),
    ),
    "the machine is a member already": (
        ("MachineKnown", "shop/web-aaaaa-1; to evict it: kubectl exclave member evict web-aaaaa-1 -n shop"),
        (
            Fault.DUPLICATE_MACHINE,
            "a member with this machine's id lives already: "
            "shop/web-aaaaa-1; to evict it: kubectl exclave member evict web-aaaaa-1 -n shop",
            "if this machine was reinstalled, evict that member; if it is a clone, give it an id of its own: "
            "rm /etc/machine-id && systemd-machine-id-setup",
        ),
    ),
    "what it asked with is refused": (
        ("RequestRefused", "the CSR is not PEM"),
        (
            Fault.NOT_ADMITTED,
            "the controller cannot use what this machine asked with, as Member shop/web-k7q2x-1: the CSR is not PEM",
            "compare the versions of exclave here and in the cluster: exclave --version",
        ),
    ),
    "the guard is missing": (
        ("GuardMissing", "ValidatingAdmissionPolicy exclave is not there"),
        (
            Fault.NOT_ADMITTED,
            "the cluster admits nobody while its admission policy is missing: "
            "ValidatingAdmissionPolicy exclave is not there",
            "ask the admin to install exclave's admission policy again",
        ),
    ),
}


@pytest.mark.parametrize(("told", "expected"), REFUSALS.values(), ids=REFUSALS)
async def test_a_join_after_a_refusal_waits_until_its_member_is_gone(
    told: tuple[str, str], expected: Told, tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        controller.refuses = told
        token = await controller.join_token()
        with pytest.raises(ExclaveError) as caught:
            await join_here(token, config)
        assert (caught.value.fault, caught.value.message, caught.value.hint) == expected
        record = load_join(config.paths.state)
        assert record is not None and record.refusal == expected[0].word
        controller.refuses = None
        waits = trio.Event()
        async with trio.open_nursery() as nursery:  # the same token does not look used up while the Member is there

            def report(text: str) -> None:
                if text == f"waiting for Member {NAMESPACE}/{FIRST}, which was refused, to be gone":
                    waits.set()

            nursery.start_soon(join, encode_token(token), config, time.time, report)
            await waits.wait()
            await controller.admin.send(delete(MEMBERS, NAMESPACE, FIRST))
        assert load_membership(config.paths.state) is not None


async def test_a_reason_unknown_here_is_waited_out(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        controller.refuses = ("IssuerMissing", "the issuer is not there yet")
        token = await controller.join_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join_here, token, make_config(tmp_path))
            await controller.admit(await controller.wait_member(lambda view: view.admitted is not None))


async def fail_to_join(token: JoinToken, config: Config, now: Callable[[], float] = time.time) -> Told:
    with pytest.raises(ExclaveError) as caught:
        await join_here(token, config, now)
    assert token.token not in caught.value.message + caught.value.hint
    return caught.value.fault, caught.value.message, caught.value.hint


async def test_nobody_admits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PATIENCE", 0.5)
    async with open_fake_controller(tmp_path) as controller:
        controller.admits = False
        assert await fail_to_join(await controller.join_token(), make_config(tmp_path)) == (
            Fault.NOT_ADMITTED,
            f"the controller did not admit Member shop/{FIRST} within 0 s: it has said nothing yet",
            "check that it runs: kubectl -n exclave get pods; then run the same command with the same token again",
        )


async def test_an_expired_token_is_not_even_shown_to_the_server(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = replace(await controller.join_token(), expires=1_700_000_000.0)
        assert await fail_to_join(token, make_config(tmp_path)) == (
            Fault.TOKEN_EXPIRED,
            "the join token for group shop/web expired at 2023-11-14T22:13:20Z, by this machine's clock",
            "check this machine's clock, or ask the admin for a new one: kubectl exclave token create web",
        )
        assert controller.members() == []


async def test_a_revoked_token(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        await controller.revoke(token.account)
        assert await fail_to_join(token, make_config(tmp_path)) == (
            Fault.TOKEN_REVOKED,
            f"the join token for group shop/web was revoked: {token.servers[0]} does not accept it",
            "ask the admin for a new one: kubectl exclave token create web",
        )


async def test_a_token_without_rights(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        await controller.admin.send(delete(CLUSTER_ROLE_BINDINGS, None, "machines"))
        fault, message, hint = await fail_to_join(token, make_config(tmp_path))
        who = "system:serviceaccount:shop-vms:web.join.k7q2x-1"
        assert fault is Fault.NOT_PERMITTED
        assert message.startswith(
            f"{token.servers[0]} does not permit {who} to create members {FIRST} (403 Forbidden): "
        )
        assert hint == "check the group's Roles and RoleBindings, and the admission policy, if the message names it"


async def test_a_foreign_ca(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = replace(await controller.join_token(), ca=make_anchor("another").pem)
        assert await fail_to_join(token, make_config(tmp_path)) == (
            Fault.CA_MISMATCH,
            f"{token.servers[0]}: its certificate is not signed by the CA in the join token",
            "make a new join token; if the cluster's CA did not change, somebody else answers at that address",
        )


async def test_nobody_there(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        await controller.api.server.close()
        assert await fail_to_join(token, make_config(tmp_path)) == (
            Fault.UNREACHABLE,
            f"{token.servers[0]} refuses connections: no API server listens there",
            "check that the API server runs and that this machine has a route and a free way to it",
        )


@pytest.mark.parametrize(("offset", "word"), [(400.0, "behind"), (-400.0, "ahead of")])
async def test_clocks_that_differ(offset: float, word: str, tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        fault, message, hint = await fail_to_join(token, make_config(tmp_path), lambda: time.time() + offset)
        assert fault is Fault.CLOCK_SKEW
        assert message in {
            f"the clock of {token.servers[0]} is {seconds} s {word} this machine's; at most 300 s were expected"
            for seconds in (399, 400, 401)
        }
        assert hint == "set this machine's clock, for instance with: timedatectl set-ntp true"


async def test_the_error_for_a_member_has_the_command_to_join_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        await join_here(token, config)
        assert await fail_to_join(token, config) == (
            Fault.ALREADY_MEMBER,
            f"this machine is already member shop/{FIRST}",
            "to join anew, keeping what runs until that has succeeded: exclave join --again",
        )


async def test_no_address(tmp_path: Path) -> None:
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        config = replace(make_config(tmp_path), member=MemberConfig())
        assert await fail_to_join(token, config) == (
            Fault.UNREACHABLE,
            f"this machine has no address of its own on a route to {token.servers[0]}",
            "bring up its network, or name the address: member.address in /etc/exclave/config.toml; "
            "if only an HTTP proxy reaches that server, name it: cluster.proxy",
        )


SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "a credential for somebody else": (
        {"credential": "eyJ.a.b.c.d"},
        "the credential from the controller cannot be used: "
        "the credential was not sealed to this machine's delivery key, or is damaged",
    ),
    "a certificate under another anchor": (
        {"issuer": None},
        "the certificate from the controller cannot be used: "
        "the chain does not lead to a trust anchor of the mesh that is valid",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
async def test_what_does_not_serve_is_refused(spoil: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        if "issuer" in spoil:
            controller.issuer = make_issuer(make_anchor("another"))
        else:
            controller.spoil = lambda status: status.update(spoil)
        assert await fail_to_join(await controller.join_token(), config) == (
            Fault.NOT_ADMITTED,
            message,
            "compare the versions of exclave here and in the cluster, and its issuer with Linkerd's trust anchors",
        )
        assert load_membership(config.paths.state) is None


async def test_settings_that_the_controller_did_not_write_are_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has replaced them: a join uses none, and goes on when the controller has written its own again."""
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()
        place = (CONFIG_MAPS, NAMESPACE, "exclave-mesh.web")
        forged = render_settings(make_settings(controller.mesh.anchor.pem, capture="none"))
        await controller.admin.send(patch(*place, {"data": {"settings.json": forged}}))
        requests = Requests(monkeypatch, controller)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join_here, token, config)
            while requests.asked.count("get configmaps exclave-mesh.web") < 2:  # noqa: ASYNC110  no event tells
                await trio.sleep(0.05)
            assert load_settings(config.paths.state) is None
            own = render_settings(controller.settings)
            await controller.admin.send(patch(*place, {"data": {"settings.json": own}}))
        stored = load_settings(config.paths.state)
        assert stored is not None and stored[0] == controller.settings


async def test_a_full_disk_is_an_error_and_the_same_token_works_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    async with open_fake_controller(tmp_path) as controller:
        token = await controller.join_token()

        def refuse(path: Path, target: Path) -> Path:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", refuse)
            fault, message, _ = await fail_to_join(token, config)
        assert fault is Fault.DISK
        assert message == f"cannot write {config.paths.state}/next.key: No space left on device"
        await join_here(token, config)
