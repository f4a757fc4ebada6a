"""Accounts that stay behind, on the sandbox's API server."""

import time
from pathlib import Path

import pytest

from exclave.admin.objects import join_account, rejoin_account
from exclave.api.names import CONTROLLER
from exclave.api.requests import MEMBERS, ROLES, SERVICE_ACCOUNTS, create, delete, list_all
from exclave.cluster.client import open_cluster
from exclave.controller.sweep import clear, tidy
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .worlds import make_member


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
        await clear(cluster.admin, "shop", "web")
        assert await accounts(cluster) == {"api.join.ccccc-1"}


async def test_a_group_whose_roles_went_first_is_let_go_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.put([join_account("shop", "web", "aaaaa", 1, time.time() + 3600)])
        await cluster.admin.send(delete(ROLES, "shop-vms", CONTROLLER))
        token = await cluster.token_of("exclave", CONTROLLER)
        async with open_cluster(cluster.api.access, lambda: token) as own:
            await clear(own, "shop", "web")
        assert caplog.messages[-1].startswith("accounts of group shop/web are left: ")
        assert await accounts(cluster) == {"web.join.aaaaa-1"}


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
        await tidy(cluster.admin, "shop", {"web-ddddd-1"}, lambda: now)
        young = {"web.join.ccccc-1", "web.vm.k7q2x-1", "web.vm.ddddd-1", "web.vm.eeeee-1", "web.else"}
        assert await accounts(cluster) == young, "an account that was made just now may belong to a Member to come"
        await tidy(cluster.admin, "shop", {"web-ddddd-1"}, lambda: now + 61)
        assert await accounts(cluster) == young - {"web.vm.eeeee-1"}, "web-k7q2x-1 is there, though we had not seen it"
