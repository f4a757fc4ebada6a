"""Others have rights among a group's machines' accounts, or the controller lacks some, beside the whole controller."""

from pathlib import Path

import pytest

from exclave.api.member import condition_of
from exclave.api.names import ADOPTED
from exclave.api.requests import ROLE_BINDINGS, ROLES, WORKLOAD_GROUPS, Object, create, delete, get, patch
from exclave.controller import account_rights
from exclave_sandbox.stage.mesh import NAMESPACE
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .test_run import joined, wait

pytestmark = pytest.mark.slow

ACCOUNTS = f"{NAMESPACE}-vms"
TEAM = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "RoleBinding",
    "metadata": {"name": "team"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
}


def reason_of(found: Object | None) -> str:
    accepted = condition_of(found, "Accepted") if found else None
    return accepted.reason if accepted else ""


async def until(cluster: MeshCluster, reason: str) -> str:
    """Wait until group `web` has this reason; returns its message."""
    found = condition_of(await wait(cluster, WORKLOAD_GROUPS, "web", lambda one: reason_of(one) == reason), "Accepted")
    assert found is not None
    return found.message


async def test_a_group_whose_accounts_somebody_else_rules_takes_members_once_an_admin_accepts_that(
    tmp_path: Path,
) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.admin.send(create(ROLE_BINDINGS, ACCOUNTS, TEAM))
        async with cluster.controlled():
            assert "RoleBinding team (ClusterRole admin): User eve" in await until(cluster, "NamespaceShared")
            adopted = {"metadata": {"annotations": {ADOPTED: "team"}}}
            await cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", adopted))
            await until(cluster, "Accepted")
            await joined(cluster, tmp_path / "vm")


async def test_rights_that_somebody_gets_later_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_rights, "EVERY", 0.2)
    async with open_mesh_cluster(tmp_path) as cluster:
        await until(cluster, "Accepted")
        await cluster.admin.send(create(ROLE_BINDINGS, ACCOUNTS, TEAM))
        await until(cluster, "NamespaceShared")
        await cluster.admin.send(delete(ROLE_BINDINGS, ACCOUNTS, "team"))
        await until(cluster, "Accepted")


@pytest.mark.parametrize(
    ("namespace", "binding", "words"),
    [
        (ACCOUNTS, "exclave-controller", "the controller may not list the RoleBindings in namespace shop-vms"),
        (NAMESPACE, "exclave-publisher.web", "to patch configmaps exclave-mesh.web"),
    ],
)
async def test_a_group_with_missing_roles_states_that_and_a_machine_waits_until_they_are_there(
    tmp_path: Path, namespace: str, binding: str, words: str
) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        found = await cluster.admin.send(get(ROLE_BINDINGS, namespace, binding))
        await cluster.admin.send(delete(ROLE_BINDINGS, namespace, binding))
        async with cluster.controlled():
            message = await until(cluster, "RightsMissing")
            assert words in message
            assert message.endswith("; to do: kubectl exclave upgrade")
            metadata = {"name": binding, "namespace": namespace}
            await cluster.admin.send(create(ROLE_BINDINGS, namespace, {**found, "metadata": metadata}))
            await until(cluster, "Accepted")
            await joined(cluster, tmp_path / "vm")


async def test_the_role_of_an_earlier_version_is_a_missing_right(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        role = await cluster.admin.send(get(ROLES, ACCOUNTS, "exclave-controller"))
        earlier = [one for one in role["rules"] if one["resources"] != ["rolebindings"]]
        assert len(earlier) == len(role["rules"]) - 1
        await cluster.admin.send(patch(ROLES, ACCOUNTS, "exclave-controller", {"rules": earlier}))
        async with cluster.controlled():
            await until(cluster, "RightsMissing")
            await cluster.admin.send(patch(ROLES, ACCOUNTS, "exclave-controller", {"rules": role["rules"]}))
            await until(cluster, "Accepted")
