"""Accounts that stay behind, on the sandbox's API server."""

import time
from pathlib import Path

import pytest
import trio

from exclave.admin.objects import join_account, rejoin_account
from exclave.api.names import CONTROLLER, EXPIRES
from exclave.api.requests import MEMBERS, ROLES, SERVICE_ACCOUNTS, Object, Request, create, delete, list_all
from exclave.cluster.client import open_cluster
from exclave.controller.sweep import GRACE, accounts_of, delete_group_accounts, has_expired, missing_member, sweep
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ApiRefusal
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .snapshots import NOW, make_member


async def accounts(cluster: MeshCluster) -> set[str]:
    listed = await cluster.admin.send(list_all(SERVICE_ACCOUNTS, "shop-vms"))
    return {one["metadata"]["name"] for one in listed["items"]}


async def test_a_group_is_deleted_with_its_own_accounts_only(tmp_path: Path) -> None:
    now = time.time()
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.put(
            [
                join_account("shop", "web", "aaaaa", 1, now + 3600),
                rejoin_account("shop", "web-bbbbb-1", now + 3600),
                join_account("shop", "api", "ccccc", 1, now + 3600),
            ]
        )
        await delete_group_accounts(cluster.admin, "shop", "web")
        assert await accounts(cluster) == {"api.join.ccccc-1"}


async def test_a_group_whose_roles_were_deleted_first_is_released_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.put([join_account("shop", "web", "aaaaa", 1, time.time() + 3600)])
        await cluster.admin.send(delete(ROLES, "shop-vms", CONTROLLER))
        token = await cluster.token_of("exclave", CONTROLLER)
        async with open_cluster(cluster.api.access, lambda: token) as own:
            await delete_group_accounts(own, "shop", "web")
        assert caplog.messages[-1].startswith("accounts of group shop/web are left: ")
        assert await accounts(cluster) == {"web.join.aaaaa-1"}


class OddAccounts:
    """A server whose accounts are these, and which refuses to delete some."""

    def __init__(self, accounts: list[Object], refused: str) -> None:
        self.deleted: list[str] = []
        self._accounts = accounts
        self._refused = refused

    async def send(self, request: Request) -> Object:
        await trio.lowlevel.checkpoint()
        name = request.path.rpartition("/")[2]
        if request.verb == "list":
            return {"items": self._accounts}
        if request.verb == "delete" and name == self._refused:
            raise ApiRefusal(403, "Forbidden", "a webhook says no", "ask it")
        if request.verb == "delete":
            self.deleted.append(name)
            return {}
        raise ApiRefusal(404, "NotFound", "there is none", "")


async def test_a_malformed_account_or_one_that_cannot_be_deleted_does_not_prevent_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    then, now = "2026-01-01T00:00:00Z", time.time()
    good = [join_account("shop", "web", token, 1, now - 1).body for token in ("aaaaa", "bbbbb", "ccccc")]
    lonely: list[Object] = [{"metadata": {"name": f"web.vm.{one}-1", "creationTimestamp": then}} for one in "xy"]
    malformed: list[Object] = [
        {"metadata": {"namespace": "shop-vms", "name": "web.join.ddddd-1", "annotations": ["x"]}},
        {"metadata": {"namespace": "shop-vms", "name": "web.join.eeeee-1", "annotations": {EXPIRES: 7}}},
    ]
    server = OddAccounts([*malformed, *good, *lonely], "web.join.aaaaa-1")
    await sweep(server, "shop", set(), lambda: now, MalformedLog(lambda: now))
    assert server.deleted == ["web.join.bbbbb-1", "web.join.ccccc-1", "web.vm.x-1", "web.vm.y-1"]
    assert "account shop-vms/web.join.aaaaa-1 is left: a webhook says no" in caplog.messages
    for name in ("ddddd", "eeeee"):
        title = f"ServiceAccount shop-vms/web.join.{name}-1 cannot be used, and is left as it is: "
        assert any(line.startswith(title) for line in caplog.messages)


async def test_only_expired_tokens_and_accounts_without_a_member_are_deleted(tmp_path: Path) -> None:
    now = time.time()
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.put(
            [
                join_account("shop", "web", "aaaaa", 1, now - 1),
                rejoin_account("shop", "web-bbbbb-1", now - 1),
                join_account("shop", "web", "ccccc", 1, now + 3600),
            ]
        )
        for name in ("web.vm.k7q2x-1", "web.vm.ddddd-1", "web.vm.eeeee-1", "web.else"):
            await cluster.admin.send(create(SERVICE_ACCOUNTS, "shop-vms", {"metadata": {"name": name}}))
        await cluster.admin.send(create(MEMBERS, "shop", make_member(finalizer=False)))
        await sweep(cluster.admin, "shop", {"web-ddddd-1"}, lambda: now, MalformedLog(lambda: now))
        young = {"web.join.ccccc-1", "web.vm.k7q2x-1", "web.vm.ddddd-1", "web.vm.eeeee-1", "web.else"}
        assert await accounts(cluster) == young, "an account that was made just now may belong to a Member to come"
        await sweep(cluster.admin, "shop", {"web-ddddd-1"}, lambda: now + 61, MalformedLog(lambda: now))
        assert await accounts(cluster) == young - {"web.vm.eeeee-1"}, "web-k7q2x-1 is there, though we had not seen it"


@pytest.mark.parametrize(
    ("name", "annotations", "due"),
    [
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T07:59:59Z"}, True, id="one whose time has passed"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T08:00:00Z"}, True, id="one whose time is now"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T08:00:01Z"}, False, id="not one that has a second left"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T08:59:59+01:00"}, True, id="a time of another zone"),
        pytest.param("web.vm.k7q2x-3", {EXPIRES: "2020-01-01T00:00:00Z"}, False, id="never a member's own account"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "tomorrow"}, False, id="not one whose time cannot be read"),
        pytest.param("web.join.k7q2x-3", {}, False, id="not one without a time"),
        pytest.param("web.join.k7q2x-3", None, False, id="not one without annotations"),
    ],
)
def test_an_expired_join_account_is_due(name: str, annotations: dict[str, str] | None, due: bool) -> None:
    account = {"metadata": {"name": name, "annotations": annotations}}
    assert has_expired(account, NOW) == due


def test_the_accounts_of_a_group_are_found_by_its_name() -> None:
    names = ["web.vm.k7q2x-1", "web.join.k7q2x-2", "web.rejoin.k7q2x-1"]
    others = ["web-blue.vm.k7q2x-1", "api.join.k7q2x-1", "web", "web.vm", "web.vm.a.b", "default"]
    accounts = [{"metadata": {"name": name}} for name in (*names, *others)]
    assert accounts_of(accounts, "web") == names


@pytest.mark.parametrize(
    ("name", "age", "is_orphan"),
    [
        pytest.param("web.vm.k7q2x-1", GRACE + 1, False, id="one with its Member"),
        pytest.param("web.vm.k7q2x-2", GRACE + 1, True, id="one without a Member"),
        pytest.param("web.vm.k7q2x-2", GRACE, False, id="one whose Member may not be in the cache yet"),
        pytest.param("web.join.k7q2x-2", GRACE + 1, False, id="the account of a join token"),
        pytest.param("web.vm", GRACE + 1, False, id="one of another shape"),
        pytest.param("web.vm.k7q2x-2.x", GRACE + 1, False, id="one with more dots"),
    ],
)
def test_a_machines_account_without_its_member_is_an_orphan(name: str, age: float, is_orphan: bool) -> None:
    created = "2027-01-15T08:00:00Z"
    account = {"metadata": {"name": name, "creationTimestamp": created}}
    assert missing_member(account, {"web-k7q2x-1"}, NOW + age) == ("web-k7q2x-2" if is_orphan else None)
