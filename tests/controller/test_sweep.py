"""Accounts that stay behind, on the sandbox's API server."""

import time
from pathlib import Path

import pytest
import trio

from exclave.admin.objects import join_account, rejoin_account
from exclave.api.names import CONTROLLER, EXPIRES
from exclave.api.requests import MEMBERS, ROLES, SERVICE_ACCOUNTS, Object, Request, create, delete, list_all
from exclave.cluster.client import open_cluster
from exclave.controller.sweep import delete_group_accounts, sweep
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ApiRefusal
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .snapshots import make_member


async def accounts(cluster: MeshCluster) -> set[str]:
    listed = await cluster.admin.send(list_all(SERVICE_ACCOUNTS, "shop-vms"))
    return {one["metadata"]["name"] for one in listed["items"]}


async def test_with_a_group_its_accounts_go_and_nobody_elses(tmp_path: Path) -> None:
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


async def test_a_group_whose_roles_went_first_is_let_go_all_the_same(
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


async def test_expired_tokens_and_accounts_without_a_member_go_and_nothing_else(tmp_path: Path) -> None:
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
