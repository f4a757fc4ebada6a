"""Transitions on the sandbox's API server: which objects exist afterwards, and that each may be repeated."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exclave.api.delivery import unseal
from exclave.api.group import parse_group
from exclave.api.identity import MeshIdentity
from exclave.api.issuer import Issuer, read_issuer
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SECRETS,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    Object,
    Request,
    create,
    delete,
    get,
    patch,
    refusal,
)
from exclave.cluster.client import open_cluster
from exclave.controller.execute import Executor
from exclave.controller.policy.snapshot import Group, MemberSnapshot
from exclave.controller.policy.transitions import (
    Action,
    DeleteMember,
    MarkNotReady,
    PutWorkload,
    RecheckAfter,
    Transition,
    WriteStatus,
    next_transition,
)
from exclave.errors import ApiRefusal
from exclave.identity.svid import check_svid
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .snapshots import ADMITTED, KEY, LIVE, MARK_KEY, MESH, NAME, NAMESPACE, make_member, with_metadata, with_status

pytestmark = pytest.mark.slow

ACCOUNT = "web.vm.k7q2x-1"
IDENTITY = MeshIdentity("web", NAMESPACE, "linkerd", "cluster.local")


class Scene:
    """A Member in a cluster without a controller, and an executor with an administrator's account."""

    def __init__(self, cluster: MeshCluster, snapshot: MemberSnapshot, issuer: Issuer) -> None:
        self.cluster = cluster
        self.snapshot = snapshot
        self.issuer: Issuer | None = issuer
        self.executor = Executor(cluster.admin, lambda: self.issuer, time.time)

    async def execute(self, *transitions: Transition) -> MemberSnapshot | None:
        """Execute transitions, one after the other."""
        found: MemberSnapshot | None = self.snapshot
        for transition in transitions:
            assert found is not None
            found = await self.executor.execute(transition, found)
        return found

    async def play(self) -> list[str]:
        """Execute the next transition until there is none or the Member is gone. Time passes only in pauses."""
        names: list[str] = []
        while (transition := next_transition(self.snapshot)) is not None:
            names.append("RecheckAfter" if isinstance(transition, RecheckAfter) else transition.label)
            if isinstance(transition, RecheckAfter):
                self.snapshot = self.snapshot.replaced(now=self.snapshot.now + transition.seconds)
                continue
            found = await self.executor.execute(transition, self.snapshot)
            if found is None:
                break
            self.snapshot = found
            assert len(names) < 30, names
        return names

    async def standing(self) -> list[str]:
        """Which of the member's objects exist."""
        places = [
            (MEMBERS, NAME, NAMESPACE),
            (EXTERNAL_WORKLOADS, NAME, NAMESPACE),
            (LEASES, NAME, NAMESPACE),
            (SERVICE_ACCOUNTS, ACCOUNT, "shop-vms"),
        ]
        return [resource.kind for resource, *place in places if await self.cluster.find(resource, *place) is not None]


@asynccontextmanager
async def scene(folder: Path, **spec: Any) -> AsyncIterator[Scene]:
    async with open_mesh_cluster(folder, controlled=False) as cluster:
        admin = cluster.admin
        body = make_member(finalizer=False, **spec)
        member = await admin.send(create(MEMBERS, NAMESPACE, {**body, "metadata": {"name": NAME}}))
        found = await admin.send(get(WORKLOAD_GROUPS, NAMESPACE, "web"))
        group = Group(NAMESPACE, "web", found["metadata"]["uid"], parse_group("web", found["spec"]))
        secret = await admin.send(get(SECRETS, "exclave", "exclave-issuer"))
        issuer = read_issuer(secret, cluster.mesh.anchor.pem, time.time())
        yield Scene(
            cluster, MemberSnapshot(member=member, now=time.time(), group=group, mesh=MESH, mark_key=MARK_KEY), issuer
        )


async def test_a_member_from_the_first_transition_to_the_last(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        assert await one.play() == [
            "AddFinalizer", "MakeAccount", "MakeLease", "PutWorkload", "Sign", "Seal", "WriteStatus",
        ]  # fmt: skip
        assert await one.standing() == ["Member", "ExternalWorkload", "Lease", "ServiceAccount"]
        member = await one.cluster.find(MEMBERS, NAME)
        assert member is not None
        assert member["metadata"]["finalizers"] == ["exclave.dev/member"]
        chain = member["status"]["certificate"]["chain"]
        assert check_svid(chain, KEY, one.cluster.mesh.anchor.pem, IDENTITY, time.time())

        token = unseal(member["status"]["credential"], KEY)
        async with open_cluster(one.cluster.api.access, lambda: token) as own:
            assert (await own.send(get(MEMBERS, NAMESPACE, NAME)))["metadata"]["name"] == NAME

        await one.cluster.admin.send(delete(MEMBERS, NAMESPACE, NAME))
        member = await one.cluster.find(MEMBERS, NAME)
        assert member is not None and member["metadata"]["deletionTimestamp"]
        one.snapshot = one.snapshot.replaced(member=member)
        assert await one.play() == [
            "DeleteAccount", "RecheckAfter", "DeleteWorkload", "ReleaseWorkload", "DeleteLease", "ReleaseMember",
        ]  # fmt: skip
        assert await one.standing() == []


async def test_an_existing_or_missing_object_counts_as_done(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        for transition in (Action.ADD_FINALIZER, Action.MAKE_ACCOUNT, Action.MAKE_LEASE):
            first = await one.execute(transition)
            again = await one.execute(transition)
            assert first is not None and again is not None
            assert (first.has_account, first.has_lease) == (again.has_account, again.has_lease)
        assert await one.standing() == ["Member", "Lease", "ServiceAccount"]
        for transition in (Action.DELETE_ACCOUNT, Action.DELETE_LEASE):
            assert await one.execute(transition, transition)
        gone = (MarkNotReady("NotLive", ""), Action.EMPTY_PORTS, Action.RELEASE_WORKLOAD)
        for transition in gone:
            snapshot = await one.execute(transition)
            assert snapshot is not None and snapshot.workload is None
        assert await one.execute(Action.DELETE_WORKLOAD)
        assert await one.standing() == ["Member"]
        assert await one.execute(Action.RELEASE_MEMBER) is None
        assert await one.execute(DeleteMember("why")) is None
        assert await one.execute(Action.RELEASE_MEMBER) is None
        assert await one.standing() == []


async def test_a_member_that_is_deleted_is_removed_next_and_leaves_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.play()
        found = await one.execute(DeleteMember("it is silent"))
        assert found is not None and found.view.deleting and found.workload is not None
        one.snapshot = found
        assert (await one.play())[-1] == "ReleaseMember"
        assert await one.standing() == []


async def test_a_machine_that_joined_again_under_the_name_stays_when_the_former_member_is_to_be_deleted(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as one:
        admin = one.cluster.admin
        await admin.send(delete(MEMBERS, NAMESPACE, NAME))
        body = {**make_member(finalizer=False), "metadata": {"name": NAME}}
        second = await admin.send(create(MEMBERS, NAMESPACE, body))
        assert second["metadata"]["uid"] != one.snapshot.view.uid
        assert await one.execute(DeleteMember("it is silent")) is None
        assert await one.cluster.find(MEMBERS, NAME) == second


async def test_a_finalizer_that_others_removed_meanwhile_is_not_put_back(tmp_path: Path) -> None:
    """An orphaning deletion adds a finalizer that Kubernetes removes again. Our caches may still have it."""
    async with scene(tmp_path) as one:
        await one.play()
        admin, before = one.cluster.admin, {}
        for resource, ours in ((EXTERNAL_WORKLOADS, "exclave.dev/ports"), (MEMBERS, "exclave.dev/member")):
            body = {"metadata": {"finalizers": [ours, "example.com/orphan"]}}
            await admin.send(patch(resource, NAMESPACE, NAME, body))
            await admin.send(delete(resource, NAMESPACE, NAME))
            before[resource.kind] = await admin.send(get(resource, NAMESPACE, NAME))
            await admin.send(patch(resource, NAMESPACE, NAME, {"metadata": {"finalizers": [ours]}}))
        one.snapshot = one.snapshot.replaced(member=before["Member"], workload=before["ExternalWorkload"])
        await one.execute(Action.RELEASE_WORKLOAD)
        await one.execute(Action.RELEASE_MEMBER)
        for resource in (EXTERNAL_WORKLOADS, MEMBERS):
            assert await one.cluster.find(resource, NAME) is None


async def test_transitions_of_a_deleted_member_return_none(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.cluster.admin.send(delete(MEMBERS, NAMESPACE, NAME))
        for transition in (Action.ADD_FINALIZER, Action.SIGN, WriteStatus({"status": {"settings": "d"}})):
            assert await one.execute(transition) is None


async def test_a_member_that_was_evicted_meanwhile_gets_no_certificate(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.execute(Action.ADD_FINALIZER)
        await one.cluster.admin.send(delete(MEMBERS, NAMESPACE, NAME))
        assert not one.snapshot.view.deleting, "our cache lies behind"
        snapshot = await one.execute(Action.SIGN)
        assert snapshot is not None
        assert snapshot.signed is None and snapshot.view.deleting


async def test_a_csr_that_was_signed_meanwhile_is_not_signed_twice(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        before = one.snapshot
        await one.play()
        one.snapshot = before
        snapshot = await one.execute(Action.SIGN)
        assert snapshot is not None
        assert snapshot.signed is None and snapshot.view.certificate is not None


async def test_names_and_life_are_those_of_the_group_as_it_is_now(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.cluster.admin.send(
            patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"spec": {"certificateLifetime": "600s"}})
        )
        snapshot = await one.execute(Action.SIGN)
        assert snapshot is not None and snapshot.signed is not None
        svid = check_svid(snapshot.signed.chain, KEY, one.cluster.mesh.anchor.pem, IDENTITY, time.time())
        assert svid.not_after - svid.not_before in (609, 610, 611)


async def test_nothing_is_signed_for_an_account_that_has_just_changed(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"spec": {"serviceAccount": "admin"}}))
        with pytest.raises(ValueError, match="its ServiceAccount has just changed"):
            await one.execute(Action.SIGN)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"networks": ["192.0.2.0/24"]}, "AddressRefused")],
)
async def test_the_group_as_it_is_now_decides_whether_a_certificate_is_signed(
    tmp_path: Path, spec: dict[str, Any], reason: str
) -> None:
    async with scene(tmp_path) as one:
        await one.cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"spec": spec}))
        snapshot = await one.execute(Action.ADD_FINALIZER, Action.SIGN)
        assert snapshot is not None and snapshot.signed is None
        refused = next_transition(snapshot)
        assert isinstance(refused, WriteStatus)
        assert [condition["reason"] for condition in refused.patch["status"]["conditions"]] == [reason]


async def test_a_group_that_cannot_be_read_keeps_certifying_by_its_last_good_reading(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"spec": {"networks": ["nonsense"]}}))
        snapshot = await one.execute(Action.SIGN)
        assert snapshot is not None and snapshot.signed is not None


async def test_an_account_of_the_member_proves_that_an_earlier_version_admitted_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        without = await one.execute(Action.ADOPT)
        assert without is not None and without.adoption == "refused"
        found = await one.execute(Action.MAKE_ACCOUNT, Action.ADOPT)
        assert found is not None and found.adoption == "adopted"


async def test_without_an_issuer_nothing_is_signed(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        one.issuer = None
        with pytest.raises(ValueError) as refused:
            await one.execute(Action.SIGN)
        assert str(refused.value) == "there is no issuer that may sign"


async def test_a_sealed_credential_opens_with_the_delivery_key_alone_and_is_written_nowhere(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        snapshot = await one.execute(Action.MAKE_ACCOUNT, Action.SEAL)
        assert snapshot is not None and snapshot.sealed is not None
        assert unseal(snapshot.sealed, KEY).count(".") == 2, "a JWT"
        member = await one.cluster.find(MEMBERS, NAME)
        assert member is not None and "credential" not in (member.get("status") or {})


async def test_an_account_that_was_deleted_before_the_credential_was_sealed_is_created_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.execute(Action.MAKE_ACCOUNT)
        await one.cluster.admin.send(delete(SERVICE_ACCOUNTS, "shop-vms", ACCOUNT))
        snapshot = await one.execute(Action.SEAL)
        assert snapshot is not None and snapshot.sealed is None and not snapshot.has_account
        snapshot = await one.execute(Action.MAKE_ACCOUNT, Action.SEAL)
        assert snapshot is not None and snapshot.sealed is not None


async def test_only_our_own_finalizer_is_removed(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.play()
        theirs = {"metadata": {"finalizers": ["exclave.dev/ports", "example.org/theirs"]}}
        place = (EXTERNAL_WORKLOADS, NAMESPACE, NAME)
        one.snapshot = one.snapshot.replaced(workload=await one.cluster.admin.send(patch(*place, theirs)))
        await one.execute(Action.DELETE_WORKLOAD, Action.RELEASE_WORKLOAD)
        found = await one.cluster.find(EXTERNAL_WORKLOADS, NAME)
        assert found is not None and found["metadata"]["finalizers"] == ["example.org/theirs"]


async def test_ready_false_is_written_beside_other_conditions(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.play()
        conditions = [
            {"type": kind, "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind in ("Ready", "Theirs")
        ]
        place = (EXTERNAL_WORKLOADS, NAMESPACE, NAME)
        body = {"status": {"conditions": conditions}}
        one.snapshot = one.snapshot.replaced(workload=await one.cluster.admin.send(patch(*place, body, "status")))
        await one.execute(MarkNotReady("NotLive", "no heartbeat for three intervals"))
        found = await one.cluster.find(EXTERNAL_WORKLOADS, NAME)
        assert found is not None
        reported = {one["type"]: (one["status"], one["reason"]) for one in found["status"]["conditions"]}
        assert reported == {"Ready": ("False", "NotLive"), "Theirs": ("True", "X")}


async def test_a_refusal_by_the_server_is_raised(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        await one.play()
        wanted = create(EXTERNAL_WORKLOADS, NAMESPACE, {**(one.snapshot.workload or {}), "metadata": {"name": NAME}})
        with pytest.raises(ApiRefusal) as refused:
            await one.execute(PutWorkload(wanted))
        assert refused.value.status == 409


async def test_the_unlabelled_lease_of_a_live_member_is_adopted_with_its_heartbeats(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        place = (NAMESPACE, NAME)
        spec = {"holderIdentity": "b.n", "renewTime": "2027-01-15T08:00:00.000000Z"}
        lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": NAME}, "spec": spec}
        await one.cluster.admin.send(create(LEASES, NAMESPACE, lease))
        live = one.snapshot.replaced(member=with_status(one.snapshot.member, ADMITTED, LIVE))
        after = await one.executor.execute(Action.MAKE_LEASE, live)
        assert after is not None
        assert after.has_lease
        assert after.adopted_lease is not None
        found = await one.cluster.admin.send(get(LEASES, *place))
        assert found["metadata"]["labels"] == {"exclave.dev/group": "web"}
        assert found["spec"] == after.adopted_lease["spec"] == spec


async def test_a_lease_that_was_there_before_a_new_member_is_replaced(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        spec = {"holderIdentity": "b.n", "renewTime": "2027-01-15T08:00:00.000000Z"}
        lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": NAME}, "spec": spec}
        await one.cluster.admin.send(create(LEASES, NAMESPACE, lease))
        after = await one.executor.execute(Action.MAKE_LEASE, one.snapshot)
        assert after is not None
        assert after.has_lease
        found = await one.cluster.admin.send(get(LEASES, NAMESPACE, NAME))
        assert not found.get("spec")
        assert found["metadata"]["labels"] == {"exclave.dev/group": "web"}


class Refusing:
    """A cluster that refuses each deletion, as without a Role or by an admission policy. `asked`: its requests."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.asked: list[str] = []

    async def send(self, request: Request) -> Object:
        self.asked.append(f"{request.verb} {request.what}")
        if request.method == "DELETE":
            raise refusal(request, self.status, None, server="https://api", who="the controller")
        is_namespace = request.path.startswith("/api/v1/namespaces/")
        return {"metadata": {}} if is_namespace else make_member(deleting=True)


@pytest.mark.parametrize("name", ["web-k7q2x-01", "web", "web.k7q2x-1"])
async def test_a_member_of_any_name_is_released(name: str) -> None:
    """Others may have added our finalizer."""
    cluster = Refusing(403)
    snapshot = MemberSnapshot(with_metadata(make_member(deleting=True), name=name), 0.0)
    assert next_transition(snapshot) is Action.RELEASE_MEMBER
    assert await Executor(cluster, lambda: None, time.time).execute(Action.RELEASE_MEMBER, snapshot) is None
    assert cluster.asked == [f"get members {name}", f"patch members {name}"]


async def test_a_member_that_nobody_admitted_is_released_where_the_controller_has_no_role() -> None:
    executor = Executor(Refusing(403), lambda: None, time.time)
    snapshot = MemberSnapshot(make_member(deleting=True), 0.0, mark_key=MARK_KEY)
    after = await executor.execute(Action.DELETE_ACCOUNT, snapshot)
    assert after is not None and after.account_deleted
    for other in (replace(snapshot, mark_key=None), replace(snapshot, adoption="adopted")):
        with pytest.raises(ApiRefusal):
            await executor.execute(Action.DELETE_ACCOUNT, other)


async def test_a_lease_that_the_admission_policy_protects_holds_no_member() -> None:
    snapshot = MemberSnapshot(make_member(deleting=True), 0.0, has_lease=True)
    after = await Executor(Refusing(422), lambda: None, time.time).execute(Action.DELETE_LEASE, snapshot)
    assert after is not None and not after.has_lease
