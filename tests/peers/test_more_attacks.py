"""Odd keys, replayed CSRs, addresses of the cluster, and namespaces that are deleted. Asked of real API servers."""

import base64
import itertools
from collections.abc import Iterator

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from exclave.admin.objects import group_objects
from exclave.api.csr import csr_sha256, make_csr
from exclave.api.member import MemberView, member_object, view_member
from exclave.api.requests import MEMBERS, NAMESPACES, Object, create, delete, get, patch
from exclave.cluster.client import open_cluster
from exclave.controller.policy.admit import NOT_READY
from exclave.errors import ApiRefusal
from exclave_sandbox.stage.mesh import CONTROL_PLANE, NAMESPACE
from peers.conftest import Server
from peers.fake_machines import IDS, Machine, become, gone, seen
from peers.kubernetes import AVAILABLE
from support.cluster_thread import ClusterThread
from support.mesh_cluster import MeshCluster

from .cluster_threads import cluster_thread_on, evict
from .test_stolen import until_unknown

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

SLOTS = itertools.count(1)
YARD = "storeyard"


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    """With a group that may have any address."""
    spec = {"networks": ["0.0.0.0/0", "::/0"], "ports": [{"name": "http", "port": 8080}]}
    with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), {(YARD, "wide"): spec}) as found:
        yield found


def named() -> tuple[str, str]:
    """An id for a join token, and an address that no other test's machine has."""
    slot = next(SLOTS)
    return f"m{slot:04d}", f"10.77.0.{50 + slot}"


async def ask(
    cluster: MeshCluster, delivery_key: str, address: str, *, namespace: str = NAMESPACE, group: str = "web"
) -> MemberView:
    """Create a Member by a join token, and wait until the controller has admitted or refused it."""
    token = await cluster.join_token(token_id=named()[0], namespace=namespace, group=group)
    name = token.member_names[0]
    body = member_object(
        namespace,
        name,
        nonce=f"nonce of {name}",
        machine_hash=f"{next(IDS):016x}",
        delivery_key=delivery_key,
        csr=make_csr(ec.generate_private_key(ec.SECP256R1()), name),
        addresses=[address],
        facts={},
    )
    async with open_cluster(cluster.api.access, lambda: token.token) as joiner:
        await joiner.send(create(MEMBERS, namespace, body))

    def is_decided(found: Object) -> bool:
        admitted = view_member(found).admitted
        return admitted is not None and admitted.reason != NOT_READY

    return view_member(await seen(cluster, MEMBERS, (namespace, name), is_decided))


# Keys.


def pem(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | x25519.X25519PublicKey) -> str:
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def with_point(point: bytes) -> str:
    """A P-256 key in PEM with these 65 bytes as its point, without any check."""
    head = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
    return f"-----BEGIN PUBLIC KEY-----\n{base64.encodebytes(head + point).decode()}-----END PUBLIC KEY-----\n"


DELIVERY_KEYS = {
    "on P-384": pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "on secp256k1": pem(ec.generate_private_key(ec.SECP256K1()).public_key()),
    "of X25519": pem(x25519.X25519PrivateKey.generate().public_key()),
    "of RSA": pem(rsa.generate_private_key(65537, 2048).public_key()),
    "that is no point of the curve": with_point(b"\x04" + (1).to_bytes(32, "big") + (5).to_bytes(32, "big")),
    "at the origin": with_point(b"\x04" + bytes(64)),
    "at infinity": with_point(b"\x00" + bytes(64)),
    "that is a private key": ec.generate_private_key(ec.SECP256R1())
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode(),
}


@pytest.mark.parametrize(
    "key", DELIVERY_KEYS.values(), ids=[f"a token: a delivery key {what}" for what in DELIVERY_KEYS]
)
def test_a_delivery_key_of_another_kind_is_refused_and_seals_nothing(thread: ClusterThread, key: str) -> None:
    view = thread.run(lambda cluster: ask(cluster, key, named()[1]))
    assert view.admitted is not None
    assert (view.admitted.status, view.admitted.reason) == (False, "RequestRefused")
    assert view.admitted.message.startswith("deliveryKey: a P-256 public key")
    assert (view.credential, view.certificate) == (None, None)


def test_a_machine_a_csr_replayed_after_its_eviction(thread: ClusterThread) -> None:
    """Its name belongs to another machine by then, whose certificate stays as it is."""

    async def attack(cluster: MeshCluster) -> None:
        token_id, address = named()
        thief = await become(thread, await cluster.join_token(token_id=token_id), address)
        csr = make_csr(ec.generate_private_key(ec.SECP256R1()), thief.name)
        await thief.certified(csr)
        await evict(cluster, *thief.place)
        await gone(cluster, MEMBERS, thief.place)
        heir = await become(thread, await cluster.rejoin_token(thief.name), address)
        await until_unknown(cluster, thief.credential, thief)
        own = view_member(await heir.send(get(MEMBERS, *heir.place))).certificate
        with pytest.raises(ApiRefusal) as refused:
            await thief.send(patch(MEMBERS, *thief.place, {"spec": {"csr": csr}}))
        assert refused.value.status == 401
        found = view_member(await heir.send(get(MEMBERS, *heir.place))).certificate
        assert found is not None
        assert own is not None
        assert (found.csr_sha256, found.csr_sha256 != csr_sha256(csr)) == (own.csr_sha256, True)
        await evict(cluster, *heir.place)

    thread.run(attack)


# Addresses of the cluster.

HONEST = pem(ec.generate_private_key(ec.SECP256R1()).public_key())
ADDRESSES = {
    "of the API server's Service": (NAMESPACE, "web", "10.96.0.1"),
    "of another Service": (NAMESPACE, "web", "10.96.0.10"),
    "of a node": (NAMESPACE, "web", "192.168.1.10"),
    "of a pod": (NAMESPACE, "web", "10.42.0.10"),
    "of Linkerd's control plane": (NAMESPACE, "web", CONTROL_PLANE),
    "of Linkerd's control plane, from a group that may have any": (YARD, "wide", CONTROL_PLANE),
    "of Linkerd's control plane, written otherwise": (YARD, "wide", f"::ffff:{CONTROL_PLANE}"),
    "of this machine alone": (YARD, "wide", "127.0.0.1"),
    "of the link": (YARD, "wide", "169.254.169.254"),
    "of nobody": (YARD, "wide", "0.0.0.0"),
    "of many": (YARD, "wide", "224.0.0.1"),
}


@pytest.mark.parametrize(
    ("namespace", "group", "address"), ADDRESSES.values(), ids=[f"a token: the address {what}" for what in ADDRESSES]
)
def test_a_joiner_with_an_address_of_the_cluster_is_refused(
    thread: ClusterThread, namespace: str, group: str, address: str
) -> None:
    view = thread.run(lambda cluster: ask(cluster, HONEST, address, namespace=namespace, group=group))
    assert view.admitted is not None
    assert (view.admitted.status, view.admitted.reason) == (False, "AddressRefused")
    assert (view.credential, view.certificate) == (None, None)


# Namespaces.


@pytest.mark.parametrize("deleted", [("{}",), ("{}", "{}-vms"), ("{}-vms", "{}")], ids=" then ".join)
def test_namespaces_that_are_deleted_take_their_members_with_them(
    thread: ClusterThread, deleted: tuple[str, ...]
) -> None:
    """In the middle of everything: one serves, one has just joined, one is not admitted yet. Others notice nothing."""
    namespace = f"town{next(SLOTS)}"
    spec = {"networks": ["10.77.0.0/24"], "ports": [{"name": "http", "port": 8080}]}

    async def attack(cluster: MeshCluster) -> None:
        await cluster.put(group_objects(namespace, "web", spec, "exclave"))
        machines = [await guest(thread, namespace) for _ in range(2)]
        thread.nursery.start_soon(machines[0].live)
        await machines[0].serve()
        async with trio.open_nursery() as nursery:
            for one in deleted:
                await cluster.admin.send(delete(NAMESPACES, None, one.format(namespace)))
            nursery.start_soon(guest, thread, NAMESPACE)  # an honest join elsewhere
            for one in machines:
                nursery.start_soon(gone, cluster, MEMBERS, one.place)
        for one in {*deleted, "{}"}:
            await namespace_gone(cluster, one.format(namespace))

    thread.run(attack)


async def namespace_gone(cluster: MeshCluster, name: str) -> None:
    with trio.fail_after(300):
        while True:
            try:
                await cluster.admin.send(get(NAMESPACES, None, name))
            except ApiRefusal as refusal:
                assert refusal.status == 404, refusal
                return
            await trio.sleep(0.5)


async def guest(thread: ClusterThread, namespace: str) -> Machine:
    token_id, address = named()
    return await become(thread, await thread.cluster.join_token(token_id=token_id, namespace=namespace), address)
