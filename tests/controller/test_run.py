"""The controller under its own account, over the sandbox's API server, with the code that really joins."""

import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.admin.objects import guard_manifests
from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.join_token import encode_token
from exclave.api.member import condition_of, heartbeat_request, member_object
from exclave.api.names import CONTROLLER
from exclave.api.requests import (
    CONFIG_MAPS,
    EVENTS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SECRETS,
    SERVICE_ACCOUNTS,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
    create,
    delete,
    list_all,
    patch,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.member_cluster import open_member_cluster
from exclave.cluster.watch import Listed, Upserted
from exclave.config import Config, MemberConfig, Paths
from exclave.controller.policy import transitions
from exclave.controller.run import Locations, open_controller
from exclave.ending import EndingSwitch
from exclave.errors import ClusterError, Fault
from exclave.identity.rotator import open_identity
from exclave.join.join import join
from exclave.kit.tasks.wall_clock import Now
from exclave.member.client import open_member
from exclave.member.record import MembershipRecord
from exclave_sandbox.pki import make_anchor
from exclave_sandbox.stage.mesh import NAMESPACE, VM
from support.https_server import Asked, ConnectionCut, Reply
from support.interposer import Interposer, Treat, busy, falling_silent, honest, open_interposer
from support.mesh_cluster import MeshCluster, open_mesh_cluster

pytestmark = pytest.mark.slow


def config(folder: Path, address: str = VM) -> Config:
    return Config(Paths(folder / "state", folder / "run"), MemberConfig(address))


async def joined(cluster: MeshCluster, folder: Path) -> MembershipRecord:
    return await join(encode_token(await cluster.join_token()), config(folder), time.time, lambda _: None)


async def wait(cluster: MeshCluster, resource: Resource, name: str, accept, patience: float = 20.0) -> Object:
    """Follow an object until it is acceptable; None stands for its absence."""
    with trio.fail_after(patience):
        async with cluster.admin.watch(resource, NAMESPACE, name) as events:
            async for event in events:
                found = event.object if isinstance(event, Upserted) else None
                if accept(found):
                    return found or {}
    raise AssertionError


async def test_a_machine_that_joins_is_admitted_certified_and_registered_without_ports(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        assert record.member == "web-k7q2x-1"
        workload = await cluster.find(EXTERNAL_WORKLOADS, record.member)
        assert workload is not None
        assert workload["spec"]["meshTLS"] == {
            "identity": "spiffe://cluster.local/ns/shop/sa/web",
            "serverName": "web.shop.svc.cluster.local",
        }
        assert workload["spec"]["workloadIPs"] == [{"ip": VM}]
        assert not workload["spec"].get("ports")
        assert workload["metadata"]["annotations"] == {
            "config.linkerd.io/opaque-ports": "25,587,3306,4444,5432,6379,9300,11211",
            "config.linkerd.io/default-inbound-policy": "all-unauthenticated",
            "exclave.dev/labels": "app,exclave.dev/group",
        }
        assert [owner["kind"] for owner in workload["metadata"]["ownerReferences"]] == ["WorkloadGroup"]


async def test_the_sealed_credential_is_removed_at_the_first_heartbeat(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        member = await wait(
            cluster, MEMBERS, record.member, lambda found: found and "credential" not in found["status"]
        )
        conditions = {one["type"]: one["status"] for one in member["status"]["conditions"]}
        assert conditions == {"Admitted": "True", "Registered": "True", "Live": "True"}


async def test_ports_are_listed_while_the_member_serves(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        for serving, ports in ((True, [8080]), (False, [])):
            body = {"spec": {"serving": serving}}
            await cluster.admin.send(patch(MEMBERS, NAMESPACE, record.member, body))
            await wait(
                cluster,
                MEMBERS,
                record.member,
                lambda found, ports=ports: found["status"]["externalWorkload"].get("ports", []) == ports,
            )
            workload = await cluster.find(EXTERNAL_WORKLOADS, record.member)
            assert workload is not None
            assert [port["port"] for port in workload["spec"].get("ports", [])] == ports


async def test_changes_by_others_are_corrected_and_deleted_objects_are_created_again(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        place = (EXTERNAL_WORKLOADS, NAMESPACE, record.member)
        first = await cluster.find(EXTERNAL_WORKLOADS, record.member)
        assert first is not None
        await cluster.admin.send(patch(*place, {"spec": {"workloadIPs": [{"ip": "10.0.0.9"}]}}))
        await wait(
            cluster, EXTERNAL_WORKLOADS, record.member, lambda found: found["spec"]["workloadIPs"] == [{"ip": VM}]
        )
        await cluster.admin.send(patch(*place, {"metadata": {"finalizers": []}}))
        await cluster.admin.send(delete(*place))
        again = await wait(
            cluster,
            EXTERNAL_WORKLOADS,
            record.member,
            lambda found: found and found["metadata"]["uid"] != first["metadata"]["uid"],
        )
        assert again["spec"]["workloadIPs"] == [{"ip": VM}]


async def test_deleting_a_member_leaves_nothing_of_it(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        await cluster.admin.send(delete(MEMBERS, NAMESPACE, record.member))
        await wait(cluster, MEMBERS, record.member, lambda found: found is None)
        assert await cluster.find(EXTERNAL_WORKLOADS, record.member) is None
        assert await cluster.find(LEASES, record.member) is None
        assert await cluster.find(SERVICE_ACCOUNTS, "web.vm.k7q2x-1", "shop-vms") is None


async def test_a_lost_answer_to_the_last_patch_does_not_stop_a_rejoin_under_the_same_name(tmp_path: Path) -> None:
    cut: list[str] = []

    async def cut_the_answer_to_the_release(between: Interposer, asked: Asked, reply: Reply) -> None:
        is_release = asked.method == "PATCH" and "/members/" in asked.target
        if not is_release or asked.body != {"metadata": {"finalizers": []}} or cut:
            await honest(between, asked, reply)
            return
        cut.append(asked.target)
        async with between.ask(asked) as answer:
            await answer.aread()
        raise ConnectionCut

    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        async with controlled_through(cluster, time.time, cut_the_answer_to_the_release):
            record = await joined(cluster, tmp_path / "vm")
            await cluster.admin.send(delete(MEMBERS, NAMESPACE, record.member))
            await wait(cluster, MEMBERS, record.member, lambda found: found is None)
            assert len(cut) == 1
            token = encode_token(await cluster.rejoin_token(record.member))
            with trio.fail_after(10):
                again = await join(token, config(tmp_path / "again"), time.time, lambda _: None)
            assert again.member == record.member


async def test_a_lease_that_a_former_member_left_does_not_stop_a_rejoin_under_the_same_name(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        async with cluster.controlled():
            record = await joined(cluster, tmp_path / "vm")
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, record.member, {"metadata": {"finalizers": []}}))
        await cluster.admin.send(delete(MEMBERS, NAMESPACE, record.member))
        left = await cluster.find(LEASES, record.member)
        assert left is not None and left["spec"]["renewTime"]
        async with cluster.controlled():
            token = encode_token(await cluster.rejoin_token(record.member))
            with trio.fail_after(10):
                again = await join(token, config(tmp_path / "again"), time.time, lambda _: None)
            assert again.member == record.member
            lease = await cluster.find(LEASES, record.member)
            assert lease is not None and lease["metadata"]["uid"] != left["metadata"]["uid"]


async def test_a_group_that_was_deleted_and_made_again_while_its_watch_was_away_gets_its_settings(
    tmp_path: Path,
) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        async with controlled_through(cluster, time.time, honest) as between:
            await wait(cluster, CONFIG_MAPS, "exclave-mesh.web", lambda found: found is not None)
            group = await wait(cluster, WORKLOAD_GROUPS, "web", lambda found: accepted(found) == "Accepted")
            between.treat = busy(429, "TooManyRequests")
            between.cut_all()
            await cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"metadata": {"finalizers": []}}))
            await cluster.admin.send(delete(WORKLOAD_GROUPS, NAMESPACE, "web"))
            assert await cluster.find(CONFIG_MAPS, "exclave-mesh.web") is None, "it goes with its group"
            body = {**group, "metadata": {"name": "web", "namespace": NAMESPACE}}
            made = await cluster.admin.send(create(WORKLOAD_GROUPS, NAMESPACE, body))
            between.treat = honest
            found = await wait(cluster, CONFIG_MAPS, "exclave-mesh.web", lambda found: found is not None, 60.0)
            assert [one["uid"] for one in found["metadata"]["ownerReferences"]] == [made["metadata"]["uid"]]


async def test_settings_of_an_earlier_group_are_written_again_after_their_deletion(
    tmp_path: Path,
) -> None:
    owner = {"apiVersion": "exclave.dev/v1alpha1", "kind": "WorkloadGroup", "name": "web", "uid": "an-earlier-group"}
    metadata = {"name": "exclave-mesh.web", "namespace": NAMESPACE, "ownerReferences": [owner]}
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.admin.send(create(CONFIG_MAPS, NAMESPACE, {"metadata": metadata, "data": {}}))
        async with cluster.controlled():
            await wait(cluster, CONFIG_MAPS, "exclave-mesh.web", lambda found: found["data"])
            await cluster.admin.send(delete(CONFIG_MAPS, NAMESPACE, "exclave-mesh.web"))
            found = await wait(cluster, CONFIG_MAPS, "exclave-mesh.web", lambda found: found is not None)
            group = await cluster.find(WORKLOAD_GROUPS, "web")
            assert group is not None
            assert [one["uid"] for one in found["metadata"]["ownerReferences"]] == [group["metadata"]["uid"]]


async def other_machine(cluster: MeshCluster, name: str, address: str, machine_hash: str) -> None:
    """Create the objects of another machine that is a member and serves."""
    key = ec.generate_private_key(ec.SECP256R1())
    body = member_object(
        NAMESPACE,
        name,
        nonce=name,
        machine_hash=machine_hash,
        delivery_key=delivery_key_text(key),
        csr=make_csr(key, name),
        addresses=[address],
        facts={},
    )
    await cluster.admin.send(create(MEMBERS, NAMESPACE, body))
    await wait(cluster, MEMBERS, name, lambda found: "credential" in (found.get("status") or {}))
    await cluster.admin.send(heartbeat_request(NAMESPACE, name, f"{name}.boot", time.time()))
    await cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"spec": {"serving": True}}))
    await wait(cluster, EXTERNAL_WORKLOADS, name, lambda found: found["spec"].get("ports"))


async def test_a_member_that_states_anothers_address_loses_only_its_own_ports(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        await other_machine(cluster, "web-ttttt-1", "10.77.0.66", "1" * 16)
        await other_machine(cluster, "web-vvvvv-1", VM, "2" * 16)
        victim = await cluster.find(EXTERNAL_WORKLOADS, "web-vvvvv-1")
        assert victim is not None
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, "web-ttttt-1", {"spec": {"addresses": [VM]}}))
        thief = await wait(cluster, EXTERNAL_WORKLOADS, "web-ttttt-1", lambda found: not found["spec"].get("ports"))
        assert thief["spec"]["workloadIPs"] == [{"ip": "10.77.0.66"}]
        reported = await wait(cluster, MEMBERS, "web-ttttt-1", lambda found: registered(found) == "AddressInUse")
        message = next(one["message"] for one in reported["status"]["conditions"] if one["type"] == "Registered")
        assert message == (
            f"no port is listed: {VM} is the address of the living member web-vvvvv-1. If that is gone: "
            "kubectl exclave member evict web-vvvvv-1 -n shop"
        )
        assert await cluster.find(EXTERNAL_WORKLOADS, "web-vvvvv-1") == victim, "nothing of it was ever touched"


async def test_a_refused_machine_is_admitted_with_the_same_token_after_the_other_member_is_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "REFUSED_AFTER", 1.0)
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        token = encode_token(await cluster.join_token(token_id="zzzzz"))
        again = config(tmp_path / "again", "10.77.0.21")
        with pytest.raises(ClusterError) as refused:
            await join(token, again, time.time, lambda _: None)
        assert refused.value.fault is Fault.DUPLICATE_MACHINE
        await cluster.admin.send(delete(MEMBERS, NAMESPACE, record.member))
        assert (await join(token, again, time.time, lambda _: None)).member == "web-zzzzz-1"


def test_a_silent_member_is_deleted_for_a_new_member_with_its_address_and_leaves_nothing(tmp_path: Path) -> None:
    started, speed = time.time(), 10.0

    def now() -> float:
        return started + speed * (time.time() - started)

    async def play() -> None:
        async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
            token = await cluster.token_of("exclave", CONTROLLER)
            async with open_cluster(cluster.api.access, lambda: token) as own, open_controller(own, Locations(), now):
                await other_machine(cluster, "web-aaaaa-1", VM, "1" * 16)
                token_of_b = encode_token(await cluster.join_token(token_id="zzzzz"))
                with pytest.raises(ClusterError) as refused:
                    await join(token_of_b, config(tmp_path / "vm"), now, lambda _: None)
                while refused.value.fault is Fault.ADDRESS_REFUSED:  # until the other one counts as silent
                    try:
                        await join(token_of_b, config(tmp_path / "vm"), now, lambda _: None)
                        break
                    except ClusterError as problem:
                        assert problem.fault is Fault.ADDRESS_REFUSED
                await wait(cluster, MEMBERS, "web-aaaaa-1", lambda found: found is None, patience=200.0)
                for resource in (EXTERNAL_WORKLOADS, LEASES):
                    assert await cluster.find(resource, "web-aaaaa-1") is None
                assert await cluster.find(SERVICE_ACCOUNTS, "web.vm.aaaaa-1", "shop-vms") is None

    trio.run(play, clock=trio.testing.MockClock(rate=speed), strict_exception_groups=True)


async def test_two_agents_on_one_copied_folder_report_each_other_and_each_others_certificates(
    tmp_path: Path,
) -> None:
    async with open_mesh_cluster(tmp_path) as cluster, AsyncExitStack() as stack:
        record = await joined(cluster, tmp_path / "original")
        shutil.copytree(tmp_path / "original/state", tmp_path / "copy/state")
        members, identities = [], []
        for name in ("original", "copy"):
            paths, endings = Paths(tmp_path / name / "state", tmp_path / name / "run"), EndingSwitch()
            paths.runtime.mkdir(exist_ok=True)
            own = await stack.enter_async_context(
                open_member_cluster(cluster.api.access, paths.state, "shop-vms", record.account, endings, time.time)
            )
            own_config = Config(paths, MemberConfig(VM))
            member = await stack.enter_async_context(open_member(record, own_config, own, endings, time.time))
            members.append(member)
            identities.append(await stack.enter_async_context(open_identity(paths.state, member, endings, time.time)))
        for member in (*members, *members):
            await member.send_heartbeat()
        with trio.fail_after(20):
            for member in members:
                view = await member.view.wait_for(lambda view: view is not None and view.cloned is not None)
                assert view is not None and view.cloned is not None
                assert view.cloned.message.startswith("two machines take turns as this member, boots ")
            identities[1].renew_at.set(0.0)
            text = await identities[0].foreign.wait_for(lambda text: text is not None)
            assert text is not None
            assert text.startswith("certificates were signed as this member for keys that this machine does not have: ")
            assert identities[1].foreign.value is None
            identities[0].renew_at.set(0.0)
            assert await identities[1].foreign.wait_for(lambda text: text is not None)
        await wait_event(cluster, "TwoMachines")


async def test_a_clone_of_a_living_machine_is_refused_with_both_names(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        await wait(cluster, MEMBERS, record.member, lambda found: "credential" not in found["status"])
        token = encode_token(await cluster.join_token(token_id="zzzzz"))
        with pytest.raises(ClusterError) as refused:
            await join(token, config(tmp_path / "clone", "10.77.0.21"), time.time, lambda _: None)
        assert refused.value.fault is Fault.DUPLICATE_MACHINE
        assert "web-zzzzz-1" in refused.value.message
        assert "web-k7q2x-1" in refused.value.message


async def test_an_address_outside_of_the_groups_networks_is_refused(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        token = encode_token(await cluster.join_token())
        with pytest.raises(ClusterError) as refused:
            await join(token, config(tmp_path / "vm", "192.0.2.7"), time.time, lambda _: None)
        assert refused.value.fault is Fault.ADDRESS_REFUSED
        assert "192.0.2.7 lies in none of the group's networks: 10.77.0.0/24" in refused.value.message


async def test_members_are_admitted_only_while_every_admission_policy_is_installed(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        await cluster.admin.send(delete(VALIDATING_ADMISSION_POLICY_BINDINGS, None, "exclave-guard"))
        await wait_event(cluster, "GuardMissing", "Deployment", "exclave")
        token = encode_token(await cluster.join_token())
        with pytest.raises(ClusterError) as refused:
            await join(token, config(tmp_path / "vm"), time.time, lambda _: None)
        assert refused.value.fault is Fault.NOT_ADMITTED
        assert "ValidatingAdmissionPolicyBinding exclave-guard is missing" in refused.value.message
        assert await cluster.find(SERVICE_ACCOUNTS, "web.vm.k7q2x-1", "shop-vms") is None
        await cluster.put(guard_manifests("exclave"))
        record = await join(token, config(tmp_path / "vm"), time.time, lambda _: None)
        assert record.member == "web-k7q2x-1"


async def test_a_machine_that_joins_without_an_issuer_waits_and_gets_the_reason(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        secret = await cluster.find(SECRETS, "exclave-issuer", "exclave")
        assert secret is not None
        await cluster.admin.send(delete(SECRETS, "exclave", "exclave-issuer"))
        async with cluster.controlled(), trio.open_nursery() as nursery:
            nursery.start_soon(joined, cluster, tmp_path / "vm")
            member = await wait(cluster, MEMBERS, "web-k7q2x-1", lambda found: found and found.get("status"))
            (reported,) = member["status"]["conditions"]
            assert (reported["type"], reported["status"], reported["reason"]) == ("Admitted", "False", "NotReady")
            assert reported["message"] == "the controller can certify nobody yet: the issuer's Secret is missing"
            await cluster.admin.send(create(SECRETS, "exclave", {**secret, "metadata": {"name": "exclave-issuer"}}))


async def test_a_label_removed_from_a_group_is_removed_from_its_members(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        for labels, wanted in (({"tier": "front"}, {"app", "tier"}), ({"app": None}, {"tier"})):
            await cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"spec": {"labels": labels}}))
            await wait(
                cluster,
                EXTERNAL_WORKLOADS,
                record.member,
                lambda found, wanted=wanted: found["metadata"]["labels"].keys() - {"exclave.dev/group"} == wanted,
            )


async def test_a_csr_with_a_weak_key_is_reported_and_delays_nothing_else(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        body = {"spec": {"csr": "a weak one", "serving": True}}
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, record.member, body))
        await wait(cluster, MEMBERS, record.member, lambda found: found["status"]["externalWorkload"].get("ports"))
        member = await wait(cluster, MEMBERS, record.member, lambda found: events_of(found, "Certified"))
        assert events_of(member, "Certified") == "no certificate is signed: csr: a PEM request was expected: ValueError"
        await wait_event(cluster, "RequestRefused")


def events_of(member: Object, kind: str) -> str:
    return next((one["message"] for one in member["status"]["conditions"] if one["type"] == kind), "")


async def test_a_group_is_accepted_held_while_it_has_members_and_deleted_with_its_settings(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        group = await wait(cluster, WORKLOAD_GROUPS, "web", lambda found: accepted(found) == "Accepted")
        assert group["metadata"]["finalizers"] == ["exclave.dev/group"]
        await cluster.admin.send(delete(WORKLOAD_GROUPS, NAMESPACE, "web"))
        group = await wait(cluster, WORKLOAD_GROUPS, "web", lambda found: accepted(found) == "Deleting")
        late = encode_token(await cluster.join_token(token_id="zzzzz"))
        with pytest.raises(ClusterError) as refused:
            await join(late, config(tmp_path / "late", "10.77.0.21"), time.time, lambda _: None)
        assert "group web takes no new members: Deleting: it goes when its members have gone" in refused.value.message
        for member in (record.member, "web-zzzzz-1"):
            await cluster.admin.send(delete(MEMBERS, NAMESPACE, member))
        await cluster.join_token(token_id="unused")
        await cluster.rejoin_token("web-k7q2x-1")
        await wait(cluster, WORKLOAD_GROUPS, "web", lambda found: found is None)
        assert await cluster.find(CONFIG_MAPS, "exclave-mesh.web") is None
        left = (await cluster.admin.send(list_all(SERVICE_ACCOUNTS, "shop-vms")))["items"]
        assert not [one for one in left if one["metadata"]["name"].startswith("web.")], "its tokens go with it"
        await wait_event(cluster, "Accepted", "WorkloadGroup")
        await wait_event(cluster, "Deleting", "WorkloadGroup")


def accepted(group: Object | None) -> str | None:
    conditions = ((group or {}).get("status") or {}).get("conditions") or []
    return next((one["reason"] for one in conditions if one["type"] == "Accepted"), None)


async def test_a_member_with_an_address_outside_its_networks_loses_its_ports_and_an_event_reports_it(
    tmp_path: Path,
) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        record = await joined(cluster, tmp_path / "vm")
        place = (MEMBERS, NAMESPACE, record.member)
        await cluster.admin.send(patch(*place, {"spec": {"serving": True}}))
        await wait(cluster, EXTERNAL_WORKLOADS, record.member, lambda found: found["spec"].get("ports"))
        await cluster.admin.send(patch(*place, {"spec": {"addresses": ["192.0.2.7"]}}))
        found = await wait(cluster, EXTERNAL_WORKLOADS, record.member, lambda found: not found["spec"].get("ports"))
        assert found["spec"]["workloadIPs"] == [{"ip": VM}]
        await wait(cluster, MEMBERS, record.member, lambda found: registered(found) == "AddressRefused")
        await wait_event(cluster, "AddressRefused")


def registered(member: Object | None) -> str | None:
    conditions = ((member or {}).get("status") or {}).get("conditions") or []
    return next((one["reason"] for one in conditions if one["type"] == "Registered"), None)


async def wait_event(cluster: MeshCluster, reason: str, kind: str = "Member", namespace: str = NAMESPACE) -> Object:
    """Wait for an Event."""
    # A policy that is deleted while its watch begins is missed for FIRST_EVENT (10 s).
    with trio.fail_after(30):
        async with cluster.admin.watch(EVENTS, namespace) as events:
            async for event in events:
                for one in event.objects if isinstance(event, Listed) else (event.object,):
                    if one and one["reason"] == reason and one["regarding"]["kind"] == kind:
                        return one
    raise AssertionError


def has_mesh_condition(group: Object | None, *, is_current: bool) -> bool:
    found = condition_of(group or {}, "MeshCurrent")
    return found is not None and found.status == is_current and (is_current or found.reason == "LastGoodUsed")


async def test_faults_of_issuer_linkerd_and_admission_policies_are_events_and_so_are_their_ends(
    tmp_path: Path,
) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        changes = (
            (SECRETS, "exclave", "exclave-issuer", {"crt.pem": "bm9uZQ=="}, "Secret", None),
            (CONFIG_MAPS, "linkerd", "linkerd-config", {"values": "none"}, "Deployment", "linkerd-config"),
            (CONFIG_MAPS, "linkerd", "linkerd-identity-trust-roots", {"ca-bundle.crt": "none"}, "Deployment",
             "linkerd-identity-trust-roots"),
        )  # fmt: skip
        for resource, namespace, name, damage, kind, related in changes:
            found = await cluster.find(resource, name, namespace)
            assert found is not None
            for reason, data in (("Refused", damage), ("Accepted", found["data"])):
                await cluster.admin.send(patch(resource, namespace, name, {"data": data}))
                event = await wait_event(cluster, reason, kind, "exclave")
                assert event["type"] == ("Warning" if reason == "Refused" else "Normal")
                is_refused = reason == "Refused"
                await wait(cluster, WORKLOAD_GROUPS, "web", partial(has_mesh_condition, is_current=not is_refused))
                assert (event.get("related") or {}).get("name") == related
                await cluster.admin.send(delete(EVENTS, "exclave", event["metadata"]["name"]))
        await cluster.admin.send(delete(VALIDATING_ADMISSION_POLICY_BINDINGS, None, "exclave-guard"))
        event = await wait_event(cluster, "GuardMissing", "Deployment", "exclave")
        assert event["note"].startswith(
            "nobody is admitted and no certificate is signed: ValidatingAdmissionPolicyBinding exclave-guard is missing"
        )
        assert event["related"]["kind"] == "ValidatingAdmissionPolicyBinding"
        await cluster.put(guard_manifests("exclave"))
        await wait_event(cluster, "GuardStands", "Deployment", "exclave")


@pytest.mark.parametrize("reads", ["answered", "refused for now"])
def test_no_member_becomes_silent_because_a_watch_stalls(tmp_path: Path, reads: str) -> None:
    """The watches stall, and heartbeats continue for longer than a silent member stays live. Reads pass, or not.

    Then the machine is silent, too, and of that its member dies, if its Lease can be read.
    """

    async def treat(between: Interposer, asked: Asked, reply: Reply) -> None:
        is_read = asked.method == "GET" and "/leases/web" in asked.target
        await (busy(429, "TooManyRequests") if is_read and reads != "answered" else falling_silent)(
            between, asked, reply
        )

    async def play(now: Now) -> None:
        async with open_mesh_cluster(tmp_path, controlled=False, now=now) as cluster:
            async with controlled_through(cluster, now, honest):
                record = await join(encode_token(await cluster.join_token()), config(tmp_path), now, lambda _: None)
                while not await is_live(cluster, record.member):  # noqa: ASYNC110  another's work
                    await trio.sleep(1)
            heartbeat = partial(heartbeat_request, NAMESPACE, record.member, "boot.nonce")
            async with controlled_through(cluster, now, treat):
                for _ in range(5):
                    await cluster.admin.send(heartbeat(now()))
                    await trio.sleep(10)
                    assert await is_live(cluster, record.member)
                with trio.move_on_after(90):
                    while await is_live(cluster, record.member):  # noqa: ASYNC110  another's work
                        await trio.sleep(1)
                assert await is_live(cluster, record.member) == (reads != "answered")

    play_virtually(play)


def test_no_member_becomes_silent_because_a_server_that_has_just_started_refuses_everybody(tmp_path: Path) -> None:
    """A machine's heartbeats are refused, too; its next one comes after the controller reads Leases again."""

    async def play(now: Now) -> None:
        async with open_mesh_cluster(tmp_path, controlled=False, now=now) as cluster:
            async with controlled_through(cluster, now, honest) as between:
                record = await join(encode_token(await cluster.join_token()), config(tmp_path), now, lambda _: None)
                while not await is_live(cluster, record.member):  # noqa: ASYNC110  another's work
                    await trio.sleep(1)
                between.treat = busy(403, "Forbidden")
                between.cut_all()
                await trio.sleep(90)
                between.treat = honest
                for _ in range(20):
                    await trio.sleep(1)
                    assert await is_live(cluster, record.member)

    play_virtually(play)


def play_virtually(play: Callable[[Now], Awaitable[None]]) -> None:
    """Run it in virtual time, with a wall clock that runs as fast."""
    clock = trio.testing.MockClock(autojump_threshold=0.01)  # real sockets: what is on its way must arrive first
    began = time.time()
    trio.run(play, lambda: began + clock.current_time(), clock=clock, strict_exception_groups=True)


@asynccontextmanager
async def controlled_through(cluster: MeshCluster, now: Callable[[], float], treat: Treat) -> AsyncIterator[Interposer]:
    """The controller, with an interposer between it and the API server."""
    access, anchor = cluster.api.access, make_anchor("somebody between")
    token = await cluster.token_of("exclave", CONTROLLER)
    async with open_interposer(access.servers[0], access.ca, anchor) as between:
        between.treat = treat
        async with open_cluster(Access((between.url,), anchor.pem), lambda: token) as own:
            async with open_controller(own, Locations(), now):
                yield between


async def is_live(cluster: MeshCluster, member: str) -> bool:
    found = await cluster.find(MEMBERS, member)
    assert found is not None
    return {one["type"]: one["status"] for one in found["status"]["conditions"]}["Live"] == "True"
