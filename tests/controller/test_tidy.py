"""Accounts that stay behind, on the sandbox's API server."""

import time
from pathlib import Path

from exclave.admin.objects import join_account, rejoin_account
from exclave.cluster.requests import MEMBERS, SERVICE_ACCOUNTS, create, list_all
from exclave.controller.tidy import tidy
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .worlds import make_member


async def accounts(cluster: MeshCluster) -> set[str]:
    listed = await cluster.admin.send(list_all(SERVICE_ACCOUNTS, "shop-vms"))
    return {one["metadata"]["name"] for one in listed["items"]}


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
