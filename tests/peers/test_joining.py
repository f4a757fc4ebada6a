"""The real join and the real controller against real API servers, with the guard in place: a machine's whole life."""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from exclave.api.definitions.manifests import admission_objects
from exclave.api.join_token import encode_token
from exclave.api.member import heartbeat_request
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
    create,
    delete,
    get,
    patch,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.credential import parse_credential
from exclave.cluster.endpoint import Access
from exclave.cluster.watch import Upserted
from exclave.config import Config, MemberConfig, Paths
from exclave.errors import ApiRefusal, ExclaveError, Fault
from exclave.identity.storage import load_svid
from exclave.join.join import join
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.kubernetes import AVAILABLE
from support.mesh_cluster import MeshCluster, RunningApiServer, furnished

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

NUMBERS = itertools.count(1)
POLICIES = Resource("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "", namespaced=False)
BINDINGS = Resource("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "", namespaced=False)


@asynccontextmanager
async def guarded(server: Server, folder: Path) -> AsyncIterator[MeshCluster]:
    """Linkerd's objects, the guard, a group and the controller, on this server."""
    api = RunningApiServer(Access((server.url,), server.ca), server.admin_token, folder, None)  # type: ignore[arg-type]
    async with open_cluster(api.access, lambda: api.admin_token) as admin:
        for body in admission_objects("exclave"):
            try:
                resource = BINDINGS if body["kind"].endswith("Binding") else POLICIES
                await admin.send(create(resource, None, body))
            except ApiRefusal as refusal:
                assert refusal.status == 409, refusal
    async with furnished(api) as cluster:
        yield cluster


def machine(folder: Path) -> tuple[Config, str]:
    """A machine of its own, with an address that no other test's has; and an id for its join token."""
    number = next(NUMBERS)
    return Config(Paths(folder / "state", folder / "run"), MemberConfig(f"10.77.0.{number}")), f"t{number:04}"


async def wait(cluster: MeshCluster, resource: Resource, name: str, accept: Callable[[Object | None], bool]) -> None:
    """Follow an object until it is acceptable; None stands for its absence."""
    with trio.fail_after(30):
        async with cluster.admin.watch(resource, NAMESPACE, name) as events:
            async for event in events:
                if accept(event.object if isinstance(event, Upserted) else None):
                    return


def ports_of(found: Object | None) -> list[int]:
    return [port["port"] for port in ((found or {}).get("spec") or {}).get("ports") or ()]


async def test_a_machine_joins_serves_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    async with guarded(server, tmp_path) as cluster:
        config, token_id = machine(tmp_path)
        token = await cluster.join_token(token_id=token_id)
        record = await join(encode_token(token), config, time.time, lambda _: None)
        assert record.member == f"web-{token_id}-1"
        stored = load_svid(config.paths.state)
        assert stored is not None
        workload = await cluster.find(EXTERNAL_WORKLOADS, record.member)
        assert workload is not None
        assert workload["spec"]["meshTLS"]["identity"] == "spiffe://cluster.local/ns/shop/sa/web"
        assert ports_of(workload) == []
        own = parse_credential((config.paths.state / "credential.json").read_text())
        async with open_cluster(cluster.api.access, lambda: own.token) as credential:
            await credential.send(heartbeat_request(NAMESPACE, record.member, "boot.nonce", time.time()))
            await credential.send(patch(MEMBERS, NAMESPACE, record.member, {"spec": {"serving": True}}))
            await wait(cluster, EXTERNAL_WORKLOADS, record.member, lambda found: ports_of(found) == [8080])
            await credential.send(patch(MEMBERS, NAMESPACE, record.member, {"spec": {"serving": False}}))
            await wait(cluster, EXTERNAL_WORKLOADS, record.member, lambda found: ports_of(found) == [])
            await credential.send(delete(MEMBERS, NAMESPACE, record.member))
            await wait(cluster, MEMBERS, record.member, lambda found: found is None)
            for resource in (EXTERNAL_WORKLOADS, LEASES):
                assert await cluster.find(resource, record.member) is None
            assert await cluster.find(SERVICE_ACCOUNTS, f"web.vm.{token_id}-1", "shop-vms") is None
            await until_dead(lambda: credential.send(get(MEMBERS, NAMESPACE, record.member)))


async def until_dead(ask: Callable[[], Awaitable[Object]]) -> None:
    """Ask until the credential is one no more: API servers remember a token for about ten seconds."""
    with trio.fail_after(30):
        while True:
            try:
                await ask()
            except ApiRefusal as refusal:
                if refusal.status == 401:
                    return
                assert refusal.status == 404
            await trio.sleep(0.5)


async def test_a_token_that_was_revoked_joins_nobody(server: Server, tmp_path: Path) -> None:
    async with guarded(server, tmp_path) as cluster:
        config, token_id = machine(tmp_path)
        token = await cluster.join_token(token_id=token_id)
        account = f"web.join.{token_id}-1"
        async with open_cluster(cluster.api.access, lambda: token.token) as thief:
            await cluster.admin.send(delete(SERVICE_ACCOUNTS, "shop-vms", account))
            await until_dead(lambda: thief.send(get(MEMBERS, NAMESPACE, f"web-{token_id}-1")))
        with pytest.raises(ExclaveError) as refused:
            await join(encode_token(token), config, time.time, lambda _: None)
        assert refused.value.fault is Fault.TOKEN_REVOKED


async def test_a_clone_of_a_living_machine_is_refused_with_both_names(server: Server, tmp_path: Path) -> None:
    async with guarded(server, tmp_path) as cluster:
        first, token_id = machine(tmp_path / "first")
        token = encode_token(await cluster.join_token(uses=2, token_id=token_id))
        record = await join(token, first, time.time, lambda _: None)
        clone, _ = machine(tmp_path / "clone")
        with pytest.raises(ExclaveError) as refused:
            await join(token, clone, time.time, lambda _: None)
        assert refused.value.fault is Fault.DUPLICATE_MACHINE
        assert f"web-{token_id}-2 and the living member {record.member} are the same machine" in refused.value.message
        for number in (1, 2):
            await cluster.admin.send(delete(MEMBERS, NAMESPACE, f"web-{token_id}-{number}"))
            await wait(cluster, MEMBERS, f"web-{token_id}-{number}", lambda found: found is None)
