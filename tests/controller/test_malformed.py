"""A malformed object affects only itself: all others are reconciled, and the log names it."""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.api.join_token import encode_token
from exclave.api.names import CONTROLLER
from exclave.api.requests import (
    ENDPOINT_SLICES,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
    create,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.watch import Listed, Upserted
from exclave.config import Config, MemberConfig, Paths
from exclave.controller.cluster_state import ClusterState
from exclave.controller.policy.register import wanted_workload
from exclave.controller.policy.snapshot import Key
from exclave.controller.run import Locations, open_controller
from exclave.join.join import join
from exclave_sandbox.pki import make_anchor
from exclave_sandbox.stage.mesh import NAMESPACE, VM, group_spec
from support.https_server import Asked, Reply
from support.interposer import Interposer, honest, is_watch, open_interposer
from support.malformed import damaged
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .snapshots import GROUP, LIVE, MESH, NOW, make_member, make_snapshot, with_status

pytestmark = pytest.mark.slow


def named(found: Object, name: str) -> Object:
    return {**found, "metadata": {**found["metadata"], "name": name, "namespace": NAMESPACE}}


MEMBER = with_status(make_member(serving=True), LIVE)
WORKLOAD = named(wanted_workload(make_snapshot(MEMBER, live=True), GROUP, MESH), MEMBER["metadata"]["name"])
LEASE = named({"metadata": {}, "spec": {"renewTime": "2027-01-15T08:00:00.000000Z", "holderIdentity": "a.b"}}, "x")
GOOD, BAD = "web-k7q2x-1", "web-bbbbb-1"


@settings(max_examples=300, deadline=None)
@given(damaged(MEMBER), damaged(WORKLOAD), damaged(LEASE), st.permutations([GOOD, BAD]))
def test_a_fault_of_one_member_leaves_the_other_live_admitted_and_at_its_address(
    member: Object, workload: Object, lease: Object, names: list[str]
) -> None:
    state = ClusterState("exclave", "linkerd")
    state.mesh = MESH
    made = {
        GOOD: (named(MEMBER, GOOD), named(WORKLOAD, GOOD), named(LEASE, GOOD)),
        BAD: (named(member, BAD), named(workload, BAD), named(lease, BAD)),
    }
    for place, cache in enumerate((state.members, state.workloads, state.leases)):
        cache.apply(Listed(tuple(made[name][place] for name in names)))
    keys: list[Key] = [(NAMESPACE, name) for name in names]
    for key in keys:
        with state.malformed.isolate("Lease"):
            state.liveness.observe(key, NOW)
    state.liveness.mark_live(keys)
    state.liveness.refresh(NOW)
    state.refresh_heartbeat()
    state.refresh_members(keys)
    snapshot = state.snapshot((NAMESPACE, GOOD), NOW)
    assert snapshot is not None and snapshot.live and snapshot.has_heartbeat and snapshot.has_lease
    snapshot = state.snapshot((NAMESPACE, "web-ccccc-1"), NOW)
    assert snapshot is None
    late = named(MEMBER, "web-ccccc-1")
    concerned = state.refresh_members(state.members.apply(Upserted(late)))
    assert (NAMESPACE, GOOD) in concerned, "they have one machine and one address"


DAMAGE: dict[str, tuple[Resource, Any]] = {
    "members": (MEMBERS, {"status": 7}),
    "externalworkloads": (EXTERNAL_WORKLOADS, {"spec": {"workloadIPs": 7, "ports": ["x"]}}),
    "leases": (LEASES, {"spec": ["x"]}),
    "workloadgroups": (WORKLOAD_GROUPS, {"spec": "x", "status": ["x"]}),
    "endpointslices": (ENDPOINT_SLICES, {"endpoints": [7]}),
}
"""The objects called `web-bbbbb-1` or `bad` as the controller gets them, by the last part of a list's path."""


async def damaging(between: Interposer, asked: Asked, reply: Reply) -> None:
    """Pass everything on except the objects above."""
    kind = asked.target.partition("?")[0].rpartition("/")[2]
    if asked.method != "GET" or is_watch(asked) or kind not in DAMAGE:
        await honest(between, asked, reply)
        return
    async with between.ask(asked) as answer:
        found = json.loads(await answer.aread())
    for one in found.get("items", ()):
        if one["metadata"]["name"] in (BAD, "bad"):
            one |= DAMAGE[kind][1]
    await reply.send(answer.status_code, found)


@asynccontextmanager
async def controlled_through(cluster: MeshCluster) -> AsyncIterator[None]:
    """The controller, which gets damaged objects."""
    access, anchor = cluster.api.access, make_anchor("somebody between")
    token = await cluster.token_of("exclave", CONTROLLER)
    async with open_interposer(access.servers[0], access.ca, anchor) as between:
        between.treat = damaging
        async with open_cluster(Access((between.url,), anchor.pem), lambda: token) as own:
            async with open_controller(own, Locations(), time.time):
                yield


async def test_a_machine_joins_beside_malformed_objects_of_every_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        send, kind = cluster.admin.send, {"apiVersion": WORKLOAD_GROUPS.api_version, "kind": WORKLOAD_GROUPS.kind}
        group = {**kind, "metadata": {}, "spec": group_spec("24h")}
        await send(create(MEMBERS, NAMESPACE, named(make_member(finalizer=False), BAD)))
        await send(create(EXTERNAL_WORKLOADS, NAMESPACE, named({**WORKLOAD, "metadata": {}}, BAD)))
        await send(
            create(LEASES, NAMESPACE, named({"metadata": {"labels": {"exclave.dev/group": "web"}}, "spec": {}}, BAD))
        )
        await send(create(WORKLOAD_GROUPS, NAMESPACE, named(group, "bad")))
        slices = {"addressType": "IPv4", "endpoints": [], "ports": []}
        await send(create(ENDPOINT_SLICES, "linkerd", {"metadata": {"name": "bad"}, **slices}))
        async with controlled_through(cluster):
            token = encode_token(await cluster.join_token())
            config = Config(Paths(tmp_path / "vm/state", tmp_path / "vm/run"), MemberConfig(VM))
            with trio.fail_after(20):
                record = await join(token, config, time.time, lambda _: None)
            assert record.member == GOOD
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    for title in (f"Member {NAMESPACE}/{BAD}", f"Lease {NAMESPACE}/{BAD}", "EndpointSlice linkerd/bad"):
        assert any(line.startswith(f"{title} cannot be used, and is left as it is: ") for line in logged), title
    assert any(line.startswith(f"WorkloadGroup {NAMESPACE}/bad") for line in logged)
