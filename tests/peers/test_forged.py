"""What somebody makes by hand who may write in a namespace, but holds no join token. Asked of real API servers.

Each row is an object, or a condition, that only the controller ought to write. No row ends with a certificate or a
credential for it.
"""

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.member import ADMITTED, Condition, heartbeat_request, make_condition, member_object, view_member
from exclave.api.names import PORTS_FINALIZER
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    WORKLOAD_GROUPS,
    Object,
    create,
    get,
    patch,
)
from exclave.errors import ApiRefusal
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.fake_machines import IDS, gone, seen
from peers.kubernetes import AVAILABLE
from support.cluster_thread import ClusterThread
from support.mesh_cluster import MeshCluster

from .cluster_threads import cluster_thread_on

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

YES = Condition(ADMITTED, True, "Admitted", "a member of group web")


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), {}) as found:
        yield found


async def forge(
    thread: ClusterThread, namespace: str, group: str, tail: str, address: str, **status: object
) -> tuple[str, str]:
    """Make a Member with all that a member has, and then the condition `Admitted`."""
    admin, name = thread.cluster.admin, f"{group}-{tail}"
    key = ec.generate_private_key(ec.SECP256R1())
    body = member_object(
        namespace,
        name,
        nonce="n",
        machine_hash=f"{next(IDS):016x}",
        delivery_key=delivery_key_text(key),
        csr=make_csr(key, name),
        addresses=[address],
        facts={},
    )
    found = await admin.send(get(WORKLOAD_GROUPS, namespace, group))
    owner = {"apiVersion": "exclave.dev/v1alpha1", "kind": "WorkloadGroup", "name": group}
    tls = {"identity": f"spiffe://cluster.local/ns/{namespace}/sa/{group}"}
    workload = {
        "apiVersion": EXTERNAL_WORKLOADS.api_version,
        "kind": "ExternalWorkload",
        "metadata": {
            "name": name,
            "labels": {"exclave.dev/group": group},
            "finalizers": [PORTS_FINALIZER],
            "ownerReferences": [{**owner, "uid": found["metadata"]["uid"], "controller": False}],
        },
        "spec": {
            "meshTLS": {**tls, "serverName": f"{group}.{namespace}.svc.cluster.local"},
            "workloadIPs": [{"ip": address}],
            "ports": [],
        },
    }
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}
    await admin.send(create(EXTERNAL_WORKLOADS, namespace, workload))
    await admin.send(create(MEMBERS, namespace, {**body, "metadata": {"name": name, "finalizers": ["a.test/held"]}}))
    await seen(thread.cluster, MEMBERS, (namespace, name), lambda found: view_member(found).admitted is not None)
    # The Lease that the controller finds beside a new Member is a former one's, which it deletes: so make it now.
    await admin.send(create(LEASES, namespace, lease))
    for number in (0, 1):
        await admin.send(heartbeat_request(namespace, name, "boot.forged", thread.now() + number))
    forged = {"conditions": [make_condition(YES, thread.now())], **status}
    await admin.send(patch(MEMBERS, namespace, name, {"status": forged}, "status"))
    return namespace, name


async def outcome(cluster: MeshCluster, place: tuple[str, str]) -> Object:
    """The Member once it is refused or deleted, or has a certificate or a credential."""

    def is_decided(found: Object) -> bool:
        view = view_member(found)
        is_refused = view.admitted is not None and not view.admitted.status
        return view.deleting or is_refused or view.certificate is not None or view.credential is not None

    return await seen(cluster, MEMBERS, place, is_decided)


async def let_go(cluster: MeshCluster, place: tuple[str, str]) -> None:
    """Remove the test's own finalizer; the controller removes the rest."""
    await cluster.admin.send(patch(MEMBERS, *place, {"metadata": {"finalizers": None}}))
    for resource in (EXTERNAL_WORKLOADS, LEASES):
        try:
            await cluster.admin.send(patch(resource, *place, {"metadata": {"finalizers": None}}))
        except ApiRefusal as refusal:
            assert refusal.status == 404


def test_by_hand_a_member_of_linkerds_namespace_with_the_condition_admitted(thread: ClusterThread) -> None:
    async def attack(cluster: MeshCluster) -> None:
        body = {
            "apiVersion": "exclave.dev/v1alpha1",
            "kind": "WorkloadGroup",
            "metadata": {"name": "linkerd-destination"},
            "spec": {"networks": ["10.77.0.0/24"]},
        }
        await cluster.admin.send(create(WORKLOAD_GROUPS, "linkerd", body))
        place = await forge(thread, "linkerd", "linkerd-destination", "aaaaa-1", "10.77.0.200")
        await ends_without_keys(cluster, place)

    thread.run(attack)


async def ends_without_keys(cluster: MeshCluster, place: tuple[str, str]) -> None:
    """The Member gets neither certificate nor credential, and the controller deletes it."""
    view = view_member(await outcome(cluster, place))
    assert (view.certificate, view.credential) == (None, None)
    deleted = view_member(await seen(cluster, MEMBERS, place, lambda found: view_member(found).deleting))
    assert (deleted.certificate, deleted.credential) == (None, None)
    await let_go(cluster, place)
    await gone(cluster, MEMBERS, place)


FORGED: dict[str, tuple[str, str, dict[str, object]]] = {
    "by hand: a member with the condition Admitted and an address outside of its group's networks": (
        "bbbbb-1", "10.96.0.10", {},
    ),
    "by hand: a member with the condition Admitted and another's mark": ("bbbbb-2", "10.96.0.10", {"mark": "a" * 64}),
    "by hand: a member with the condition Admitted whose slot is written otherwise": ("bbbbb-03", "10.77.0.203", {}),
}  # fmt: skip


@pytest.mark.parametrize(("tail", "address", "status"), FORGED.values(), ids=FORGED)
def test_a_condition_that_somebody_else_wrote_makes_no_member(
    thread: ClusterThread, tail: str, address: str, status: dict[str, object]
) -> None:
    async def attack(cluster: MeshCluster) -> None:
        await ends_without_keys(cluster, await forge(thread, NAMESPACE, "web", tail, address, **status))

    thread.run(attack)
