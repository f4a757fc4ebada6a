"""A member's credential over virtual weeks, against the sandbox's API server and against one that misbehaves."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
import trio

from exclave.api.requests import NAMESPACES, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS, create, create_token, delete, get
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.credential import Credential, parse_credential, render_credential
from exclave.cluster.endpoint import Access
from exclave.cluster.member_cluster import ASKED, SOONEST, MemberCluster, load_credential, open_member_cluster
from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave_sandbox.apiserver.main import ApiServer
from support.https_server import Asked, Reply, open_https
from support.mesh_cluster import running_apiserver

VMS, ACCOUNT = "shop-vms", "web.vm.k7q2x-1"
SELF = get(SERVICE_ACCOUNTS, VMS, ACCOUNT)
EPOCH = 1_800_000_000.0
LIFE = 600.0  # of the first credential: the least that Kubernetes grants
DAY = 86400.0


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time beside real sockets: it jumps only when those have been quiet for a moment."""
    return trio.testing.MockClock(autojump_threshold=0.02)


class Wall:
    """A wall clock that goes with virtual time, and jumps when the machine was suspended."""

    suspended = 0.0

    def __call__(self) -> float:
        return EPOCH + self.suspended + trio.current_time()


@pytest.fixture
def wall() -> Wall:
    return Wall()


def stored(state: Path) -> Credential:
    return parse_credential((state / "credential.json").read_text())


@dataclass
class Member:
    """A member's account on a sandbox API server, and the admin who made it."""

    access: Access
    admin: Cluster
    server: ApiServer
    state: Path
    wall: Wall
    endings: EndingSwitch

    def open(self) -> AbstractAsyncContextManager[MemberCluster]:
        return open_member_cluster(self.access, self.state, VMS, ACCOUNT, self.endings, self.wall, draw=lambda: 0.0)


@asynccontextmanager
async def joined_member(folder: Path, wall: Wall) -> AsyncIterator[Member]:
    """A member that got a credential of ten minutes just now."""
    state = folder / "state"
    state.mkdir()
    async with running_apiserver(folder, now=wall) as server:
        async with open_cluster(server.access, lambda: server.admin_token, wall) as admin:
            await furnish(admin)
            token = (await admin.send(create_token(VMS, ACCOUNT, int(LIFE))))["status"]["token"]
            credential = Credential(token, wall(), wall() + LIFE)
            (state / "credential.json").write_text(render_credential(credential))
            yield Member(server.access, admin, server.server, state, wall, EndingSwitch())


async def furnish(admin: Cluster) -> None:
    await admin.send(create(NAMESPACES, None, {"metadata": {"name": VMS}}))
    await admin.send(create(SERVICE_ACCOUNTS, VMS, {"metadata": {"name": ACCOUNT, "namespace": VMS}}))
    rbac = "rbac.authorization.k8s.io"
    named = {"apiVersion": f"{rbac}/v1", "metadata": {"name": "machines", "namespace": VMS}}
    rules = [
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]},
    ]
    await admin.send(create(ROLES, VMS, {**named, "kind": "Role", "rules": rules}))
    binding = {
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "machines"},
        "subjects": [{"kind": "Group", "apiGroup": rbac, "name": f"system:serviceaccounts:{VMS}"}],
    }
    await admin.send(create(ROLE_BINDINGS, VMS, {**named, "kind": "RoleBinding", **binding}))


async def test_a_credential_is_renewed_at_half_of_its_life_and_used(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with joined_member(tmp_path, wall) as member, member.open() as cluster:
        first = cluster.credential.value
        await trio.sleep(LIFE / 2 - 30)
        assert cluster.credential.value == first
        second = await cluster.credential.wait_for(lambda credential: credential != first)
        assert first.renew_at <= wall() < first.renew_at + 30
        assert second.expires - second.granted == pytest.approx(ASKED, abs=2)
        assert stored(member.state) == second
        wall.suspended += DAY  # the first token is long dead
        assert await cluster.send(SELF)
        wall.suspended += 20 * DAY
        third = await cluster.credential.wait_for(lambda credential: credential != second)
        assert third.granted - second.renew_at < 7 * DAY
        assert trio.current_time() < LIFE  # within a nap of waking
        for credential in (first, second, third):
            assert credential.token not in caplog.text
    assert "the credential was renewed for 2592000 s" in caplog.messages


async def test_renewal_outlasts_an_outage_and_the_old_credential_stays_in_use(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined_member(tmp_path, wall) as member, member.open() as cluster:
        first = cluster.credential.value
        await member.server.close()
        await trio.sleep(LIFE / 2 + 100)
        assert cluster.credential.value == first == stored(member.state)
        await member.server.open()
        second = await cluster.credential.wait_for(lambda credential: credential != first)
        assert wall() < first.expires
        assert stored(member.state) == second
    said = [record.getMessage() for record in caplog.records if record.name == "exclave.cluster.member_cluster"]
    assert [line.partition(": ")[0] for line in said] == [
        f"the credential was not renewed and is tried again in {pause} s" for pause in (10, 20, 40, 80)
    ]


async def test_a_retry_does_not_wait_for_a_clock_that_was_ahead(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall
) -> None:
    async with joined_member(tmp_path, wall) as member, member.open() as cluster:
        first = cluster.credential.value
        await member.server.close()
        ahead = 365 * DAY
        wall.suspended += ahead
        await trio.sleep(50)  # the renewal is due by that clock, fails, and is to be tried again
        wall.suspended -= ahead
        await member.server.open()
        with trio.fail_after(LIFE / 2):
            await cluster.credential.wait_for(lambda credential: credential != first)


async def test_a_dead_account_is_asked_about_again_and_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall
) -> None:
    async with joined_member(tmp_path, wall) as member, member.open() as cluster:
        first = cluster.credential.value
        await member.admin.send(delete(SERVICE_ACCOUNTS, VMS, ACCOUNT))
        await trio.sleep(LIFE)
        assert cluster.credential.value == first == stored(member.state)
        assert cluster.counts["create", "401"] == 5  # after 0, 10, 30, 70 and 150 s


async def test_what_cannot_be_stored_is_not_used(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall
) -> None:
    async with joined_member(tmp_path, wall) as member, member.open() as cluster:
        first = cluster.credential.value
        member.state.rename(tmp_path / "away")
        await trio.sleep(LIFE / 2 + 30)
        assert cluster.counts["create", "201"] > 1
        assert cluster.credential.value == first
        (tmp_path / "away").rename(member.state)
        await cluster.credential.wait_for(lambda credential: credential != first)


@pytest.mark.parametrize("granted", [-3600.0, 30.0, DAY])
async def test_whatever_a_server_grants_there_is_no_storm_of_requests(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall, granted: float
) -> None:
    async def grant(asked: Asked, reply: Reply) -> None:
        asks.append(wall())
        until = datetime.fromtimestamp(wall() + granted, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        await reply.send(201, {"kind": "TokenRequest", "status": {"token": "new", "expirationTimestamp": until}})

    asks: list[float] = []
    (tmp_path / "credential.json").write_text(render_credential(Credential("old", 0, 1)))
    async with open_https(grant) as served:
        access = Access((served.url,), served.ca)
        async with open_member_cluster(access, tmp_path, VMS, ACCOUNT, EndingSwitch(), wall) as cluster:
            await trio.sleep(9.5 * SOONEST)
            assert cluster.credential.value.token == "new"
    assert asks[0] - EPOCH < 1
    assert len(asks) == (1 if granted == DAY else 10)
    assert served.asked[0].body["spec"]["expirationSeconds"] == ASKED


@pytest.mark.parametrize(
    "status", [None, "text", {"token": "new"}, {"token": "ne w", "expirationTimestamp": "2030-01-01T00:00:00Z"}]
)
async def test_after_an_answer_without_a_token_the_old_one_stays(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall, status: object
) -> None:
    async def grant(asked: Asked, reply: Reply) -> None:
        await reply.send(201, {"kind": "TokenRequest", "status": status})

    (tmp_path / "credential.json").write_text(render_credential(Credential("old", 0, 1)))
    async with open_https(grant) as served:
        access = Access((served.url,), served.ca)
        async with open_member_cluster(access, tmp_path, VMS, ACCOUNT, EndingSwitch(), wall) as cluster:
            await trio.sleep(60)
            assert cluster.credential.value.token == "old"
            assert cluster.counts["create", "201"] > 1


@pytest.mark.parametrize(("ending", "stays"), [(Ending.LEAVE, False), (Ending.STOP, True), (Ending.HAND_OVER, True)])
async def test_only_leaving_deletes_the_credential_and_the_servers_addresses(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall, ending: Ending, stays: bool
) -> None:
    async with joined_member(tmp_path, wall) as member:
        (member.state / "server-addresses.json").touch()
        with trio.CancelScope() as scope:
            async with member.open() as cluster:
                member.endings.ask_nowait(ending)
                assert await cluster.send(SELF)  # still usable while the rest unwinds
                scope.cancel()
                await trio.sleep_forever()
        for name in ("credential.json", "server-addresses.json"):
            assert (member.state / name).exists() is stays


async def test_leaving_leaves_the_credential_of_a_join_that_has_begun_meanwhile(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, wall: Wall
) -> None:
    async with joined_member(tmp_path, wall) as member:
        newer = render_credential(Credential("newer", wall(), wall() + LIFE))
        async with member.open():
            member.endings.ask_nowait(Ending.LEAVE)
            for name, text in (("credential.json", newer), ("server-addresses.json", "{}")):
                (member.state / name).write_text(text)
        assert stored(member.state).token == "newer"
        assert (member.state / "server-addresses.json").exists()


async def test_what_the_body_raises_comes_out_as_itself(tmp_path: Path, wall: Wall) -> None:
    (tmp_path / "credential.json").write_text(render_credential(Credential("old", wall(), wall() + DAY)))
    async with open_https(lambda asked, reply: reply.cut()) as served:
        with pytest.raises(KeyError):
            async with open_member_cluster(
                Access((served.url,), served.ca), tmp_path, VMS, ACCOUNT, EndingSwitch(), wall
            ):
                raise KeyError("mine")


def test_a_missing_or_damaged_credential_is_an_error_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "credential.json"
    with pytest.raises(HostError) as missing:
        load_credential(path)
    assert missing.value.message == f"cannot read {path}: No such file or directory"
    assert missing.value.hint == "leave, then join again with a new token"
    path.write_text(json.dumps({"token": "s3cret"}))
    with pytest.raises(HostError) as damaged:
        load_credential(path)
    assert damaged.value.message == f"{path} is damaged: granted: seconds since the epoch were expected"
