"""What thieves try that only the running controller can refuse, and what they get to see. Asked of real API servers.

Like `test_admission`, with the real controller beside the policies: whoever holds a join token, or a machine's disk.
"""

import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave.admin.objects import join_account
from exclave.api.csr import csr_sha256
from exclave.api.delivery import unseal
from exclave.api.join_token import encode_token
from exclave.api.member import MemberView, view_member
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SERVICE_ACCOUNTS,
    Object,
    Request,
    create,
    create_token,
    get,
    patch,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.watch import Upserted
from exclave.config import Config, MemberConfig, Paths
from exclave.errors import ApiRefusal, ExclaveError, Fault
from exclave.join import join as steps
from exclave.kit.formats.x509 import not_after, not_before
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.fake_machines import IDS, Machine, ask_to_join, become, gone, seen
from peers.kubernetes import AVAILABLE
from support.cluster_thread import ClusterThread
from support.figures import add_figure
from support.mesh_cluster import MeshCluster

from .attacks import NO_METADATA
from .cluster_threads import cluster_thread_on, evict

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

SLOTS = itertools.count(1)
YARD, EVERYWHERE = "yard", ["0.0.0.0/0", "::/0"]
EXPIRED = "zzzzz"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    """With a group elsewhere that may have any address, and a join account whose time is over from the first on."""
    spec = {"networks": EVERYWHERE, "ports": [{"name": "http", "port": 8080}]}
    with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), {(YARD, "wide"): spec}) as found:
        yield found


@pytest.fixture(scope="module")
def expired(thread: ClusterThread) -> str:
    """A join token whose account says that its time is over, though the token inside is good for an hour."""

    async def make(cluster: MeshCluster) -> str:
        await cluster.put([join_account(NAMESPACE, "web", EXPIRED, 1, time.time() - 1)])
        return encode_token(await cluster.join_token(token_id=EXPIRED))

    return thread.run(make)


@pytest.fixture(scope="module", autouse=True)
def _machines_of_their_own() -> Iterator[None]:
    """Whoever joins by the real join here is a machine of its own."""

    async def read_hash() -> str:
        return f"{next(IDS):016x}"

    with mock.patch.object(steps, "read_machine_hash", read_hash):
        yield


def named() -> tuple[str, str]:
    """An id for a join token, and an address that no other test's machine has."""
    slot = next(SLOTS)
    return f"s{slot:04d}", f"10.77.0.{100 + slot}"


async def guest(thread: ClusterThread, namespace: str = NAMESPACE, group: str = "web", address: str = "") -> Machine:
    """A machine that has joined, lives and serves."""
    token_id, own = named()
    token = await thread.cluster.join_token(token_id=token_id, namespace=namespace, group=group)
    machine = await become(thread, token, address or own)
    thread.nursery.start_soon(machine.live)
    await machine.serve()
    return machine


async def join(thread: ClusterThread, token: str, folder: Path, address: str) -> None:
    """The real join, on a machine with nothing."""
    config = Config(Paths(folder / "state", folder / "run"), MemberConfig(address))
    await steps.join(token, config, thread.now, lambda _: None)


def ports_of(found: Object | None) -> list[int]:
    return [port["port"] for port in ((found or {}).get("spec") or {}).get("ports") or ()]


# The address of another.


def test_a_token_the_address_of_a_living_member(thread: ClusterThread, tmp_path: Path) -> None:
    async def attack(cluster: MeshCluster) -> None:
        victim = await guest(thread)
        token = await cluster.join_token(token_id=named()[0])
        with pytest.raises(ExclaveError) as refused:
            await join(thread, encode_token(token), tmp_path, victim.address)
        assert refused.value.fault is Fault.ADDRESS_REFUSED
        assert refused.value.message == (
            f"address {victim.address} was refused: {victim.address} is the address of the living member "
            f"{victim.name}. If that is gone: kubectl exclave member evict {victim.name} -n {NAMESPACE}"
        )
        await unharmed(cluster, victim)

    thread.run(attack)


def test_a_token_an_address_outside_of_the_groups_networks(thread: ClusterThread, tmp_path: Path) -> None:
    async def attack(cluster: MeshCluster) -> None:
        token = await cluster.join_token(token_id=named()[0])
        with pytest.raises(ExclaveError) as refused:
            await join(thread, encode_token(token), tmp_path, "10.96.0.1")
        assert refused.value.fault is Fault.ADDRESS_REFUSED
        assert refused.value.message == (
            "address 10.96.0.1 was refused: 10.96.0.1 lies in none of the group's networks: 10.77.0.0/24"
        )

    thread.run(attack)


TAKEN = {
    "a machine: the address of another member": (NAMESPACE, "web", "{victim}", "AddressInUse"),
    "a machine: the address of a member elsewhere, from a group that may have any": (
        YARD, "wide", "{victim}", "AddressInUse",
    ),
    "a machine: the same address written otherwise": (YARD, "wide", "::ffff:{victim}", "AddressInUse"),
    "a machine: an address outside of its group's networks": (NAMESPACE, "web", "10.96.0.10", "AddressRefused"),
    "a machine: no address at all": (NAMESPACE, "web", "somewhere", "AddressRefused"),
}  # fmt: skip


@pytest.mark.parametrize(("namespace", "group", "wanted", "reason"), TAKEN.values(), ids=TAKEN)
def test_a_machine_that_names_what_it_may_not_have_loses_its_own_ports_only(
    thread: ClusterThread, namespace: str, group: str, wanted: str, reason: str
) -> None:
    async def attack(cluster: MeshCluster) -> None:
        victim, thief = await guest(thread), await guest(thread, namespace, group)
        address = wanted.format(victim=victim.address)
        await thief.send(patch(MEMBERS, *thief.place, {"spec": {"addresses": [address]}}))
        await seen(cluster, MEMBERS, thief.place, lambda found: not view_member(found).workload_ports)
        told = view_member(await thief.send(get(MEMBERS, *thief.place))).registered
        words = {
            "AddressInUse": f"no port is listed: {victim.address} is the address of the living member {victim.name}. "
            f"If that is gone: kubectl exclave member evict {victim.name} -n {NAMESPACE}",
            "AddressRefused": "no port is listed: ",
        }
        assert told is not None
        assert (told.status, told.reason) == (False, reason)
        assert told.message.startswith(words[reason])
        stands = await cluster.find(EXTERNAL_WORKLOADS, thief.name, thief.namespace)
        assert stands is not None
        assert stands["spec"]["workloadIPs"] == [{"ip": thief.address}]
        await unharmed(cluster, victim)
        await evict(cluster, *thief.place)
        await evict(cluster, *victim.place)

    thread.run(attack)


async def unharmed(cluster: MeshCluster, victim: Machine) -> None:
    """The victim is a member, listed with its address and ports, and nothing else is told of it."""
    workload = await cluster.find(EXTERNAL_WORKLOADS, victim.name, victim.namespace)
    assert ports_of(workload) == [8080]
    assert workload is not None
    assert workload["spec"]["workloadIPs"] == [{"ip": victim.address}]
    view = view_member(await cluster.admin.send(get(MEMBERS, *victim.place)))
    assert (view.deleting, view.workload_ports, view.registered and view.registered.reason) == (
        False, (8080,), "Registered",
    )  # fmt: skip


# Certificates.


def request(key: Key, common_name: str, *extensions: tuple[x509.ExtensionType, bool]) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def fresh() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


OTHER_NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"),
        x509.UniformResourceIdentifier("spiffe://cluster.local/ns/linkerd/sa/linkerd-destination"),
        x509.IPAddress(ip_address("10.42.0.2")),
    ]
)
SIGNS = x509.KeyUsage(True, True, True, True, True, True, True, False, False)
CERTIFICATES: dict[str, Callable[[], str]] = {
    "other names": lambda: request(fresh(), "web", (OTHER_NAMES, False)),
    "another subject": lambda: request(fresh(), "linkerd-destination"),
    "an authority": lambda: request(
        fresh(), "ca", (x509.BasicConstraints(ca=True, path_length=3), True), (SIGNS, True)
    ),
    "other purposes": lambda: request(fresh(), "x", (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), True)),
}


@pytest.fixture(scope="module")
def stolen(thread: ClusterThread) -> Machine:
    """A machine whose credential and disk somebody else has."""
    return thread.run(lambda _: guest(thread))


@pytest.mark.parametrize(
    "make", CERTIFICATES.values(), ids=[f"a machine: a certificate of {what}" for what in CERTIFICATES]
)
def test_a_certificate_says_what_the_controller_decides_and_no_more(
    thread: ClusterThread, stolen: Machine, make: Callable[[], str]
) -> None:
    csr = make()
    signed = thread.run(lambda _: stolen.certified(csr))
    leaf = x509.load_pem_x509_certificate(signed.chain.encode())
    assert key_of(leaf) == key_of(x509.load_pem_x509_csr(csr.encode()))
    assert leaf.subject.rfc4514_string() == f"CN={stolen.name}"
    found = {type(one.value): one.value for one in leaf.extensions}
    assert list(found[x509.SubjectAlternativeName]) == [
        x509.DNSName("web.shop.serviceaccount.identity.linkerd.cluster.local"),
        x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/web"),
    ]
    assert found[x509.BasicConstraints] == x509.BasicConstraints(ca=False, path_length=None)
    assert found[x509.KeyUsage] == x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    assert list(found[x509.ExtendedKeyUsage]) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert len(found) == 5, "these, and whose key signed"
    assert not_after(leaf) - not_before(leaf) <= 86400 + 11, "the group's, and ten seconds for clocks that differ"


def key_of(found: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found.public_key().public_bytes(*form)


WEAK: dict[str, Callable[[], Key]] = {
    "RSA of 1024 bits": lambda: rsa.generate_private_key(65537, 1024),
    "RSA of 2048 bits": lambda: rsa.generate_private_key(65537, 2048),
    "a curve of 192 bits": lambda: ec.generate_private_key(ec.SECP192R1()),
    "a curve of 384 bits": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
NOT_P256 = "csr: a P-256 key was expected, found another kind"


@pytest.mark.parametrize("make", WEAK.values(), ids=[f"a token: a certificate for a key of {what}" for what in WEAK])
def test_a_joiner_whose_key_is_of_another_kind_is_refused(thread: ClusterThread, make: Callable[[], Key]) -> None:
    async def attack(cluster: MeshCluster) -> MemberView:
        token_id, address = named()
        token = await cluster.join_token(token_id=token_id)
        return await ask_to_join(cluster, token, address, fresh(), request(make(), "web"))

    told = thread.run(attack)
    assert told.admitted is not None
    assert (told.admitted.status, told.admitted.reason, told.admitted.message) == (False, "RequestRefused", NOT_P256)
    assert told.certificate is None


def test_a_machine_that_is_evicted_gets_no_certificate_more(thread: ClusterThread) -> None:
    """Its token is known for some seconds yet, and its Member stands until its ports are withdrawn."""

    async def attack(cluster: MeshCluster) -> None:
        thief = await guest(thread)
        before = view_member(await cluster.admin.send(get(MEMBERS, *thief.place))).certificate
        assert before is not None
        await evict(cluster, *thief.place)
        csr, heard = request(fresh(), thief.name), list[str]()
        await thief.send(patch(MEMBERS, *thief.place, {"spec": {"csr": csr}}))
        async with cluster.admin.watch(MEMBERS, *thief.place) as events:
            async for event in events:
                if not isinstance(event, Upserted):
                    break
                certificate = view_member(event.object).certificate
                heard.append(certificate.csr_sha256 if certificate else "")
        assert set(heard) == {before.csr_sha256}
        assert csr_sha256(csr) not in heard

    thread.run(attack)


# Outliving an eviction.


def test_a_machine_deleting_its_member_and_orphaning_what_it_owns(thread: ClusterThread) -> None:
    async def attack(cluster: MeshCluster) -> None:
        thief = await guest(thread)
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"}
        deleting = Request("DELETE", get(MEMBERS, *thief.place).path, "delete", f"members {thief.name}", body=body)
        marked = await thief.send(deleting)
        assert marked["metadata"]["finalizers"] == ["exclave.dev/member", "orphan"]
        with pytest.raises(ApiRefusal) as refused:
            await thief.send(patch(MEMBERS, *thief.place, {"metadata": {"finalizers": ["orphan"]}}))
        assert (refused.value.status, refused.value.reason) == (422, "Invalid")
        assert NO_METADATA in refused.value.message or NONE_MORE in refused.value.message, (
            "whichever is looked at first"
        )
        await gone(cluster, MEMBERS, thief.place)
        await nothing_is_left(cluster, thief)

    thread.run(attack)


NONE_MORE = "no new finalizers can be added if the object is being deleted"


async def nothing_is_left(cluster: MeshCluster, of: Machine) -> None:
    for resource in (MEMBERS, EXTERNAL_WORKLOADS, LEASES):
        assert await cluster.find(resource, of.name, of.namespace) is None
    group, token_id, slot = of.name.rsplit("-", 2)
    assert await cluster.find(SERVICE_ACCOUNTS, f"{group}.vm.{token_id}-{slot}", f"{of.namespace}-vms") is None


def test_a_machine_that_made_everything_it_could_beforehand_does_not_outlive_its_eviction(
    thread: ClusterThread, server: Server
) -> None:
    """Tokens, a watch, a heartbeat from the future, a CSR; afterwards another machine has its name and account."""

    async def attack(cluster: MeshCluster) -> None:
        thief = await guest(thread)
        account = (f"{NAMESPACE}-vms", f"web.vm.{thief.name.partition('-')[2]}")
        minted = [str((await thief.send(create_token(*account, 30 * 86400)))["status"]["token"]) for _ in range(3)]
        for what, words in (
            (patch(MEMBERS, *thief.place, {"metadata": {"finalizers": ["a.b/c"]}}), NO_METADATA),
            (create(SERVICE_ACCOUNTS, account[0], {"metadata": {"name": "mine"}}), "cannot create resource"),
        ):
            with pytest.raises(ApiRefusal) as refused:
                await thief.send(what)
            assert words in refused.value.message
        await thief.send(patch(LEASES, *thief.place, {"spec": {"renewTime": "2999-01-01T00:00:00.000000Z"}}))
        async with watching_raw(server, thief, heard := []):
            began = time.monotonic()
            await evict(cluster, *thief.place)
            await gone(cluster, MEMBERS, thief.place)
            await nothing_is_left(cluster, thief)
            heir = await become(thread, await cluster.rejoin_token(thief.name), thief.address)
            assert heir.name == thief.name
            assert await cluster.find(SERVICE_ACCOUNTS, account[1], account[0]) is not None
            for token in (thief.credential, *minted):
                await until_unknown(cluster, token, thief)
            add_figure(
                f"{server.name}: every token of an evicted machine was dead {time.monotonic() - began:.1f} s after"
            )
            view = await heir.send(get(MEMBERS, *heir.place))
            assert view_member(view).nonce
        text = "".join(heard)
        assert '"type":"DELETED"' in text
        assert heir.credential not in text
        for line in text.splitlines():
            sealed = view_member(json.loads(line)["object"]).credential
            if sealed is not None:
                with pytest.raises(ValueError, match="was not sealed to this machine's delivery key"):
                    unseal(sealed, thief.key)

    thread.run(attack)


@asynccontextmanager
async def watching_raw(server: Server, thief: Machine, heard: list[str]) -> AsyncIterator[None]:
    """A watch of its Member that a thief has open, for as long as the API server lets it."""
    import ssl

    headers = {"Authorization": f"Bearer {thief.credential}"}
    tls = ssl.create_default_context(cadata=server.ca)
    query = {"watch": "1", "fieldSelector": f"metadata.name={thief.name}", "timeoutSeconds": "600"}
    query["resourceVersion"] = (await thief.send(get(MEMBERS, *thief.place)))["metadata"]["resourceVersion"]
    path = get(MEMBERS, *thief.place).path.rpartition("/")[0]
    async with httpx.AsyncClient(base_url=server.url, verify=tls, headers=headers, timeout=None) as client:
        async with client.stream("GET", path, params=query) as answer, trio.open_nursery() as nursery:

            async def read() -> None:
                async for text in answer.aiter_text():
                    heard.append(text)

            nursery.start_soon(read)
            yield
            nursery.cancel_scope.cancel()


async def until_unknown(cluster: MeshCluster, token: str, thief: Machine) -> None:
    """Ask with a token until it is none: API servers remember one for about ten seconds."""
    async with open_cluster(cluster.api.access, lambda: token) as own:
        with trio.fail_after(150):
            while True:
                try:
                    await own.send(get(MEMBERS, *thief.place))
                except ApiRefusal as refusal:
                    if refusal.status == 401:
                        return
                    assert refusal.status == 404, refusal
                await trio.sleep(1)


# Uses and times.


def test_a_token_more_machines_than_it_has_uses(thread: ClusterThread, expired: str, tmp_path: Path) -> None:
    async def attack(cluster: MeshCluster) -> None:
        token_id, address = named()
        token = encode_token(await cluster.join_token(token_id=token_id))
        await join(thread, token, tmp_path / "first", address)
        with pytest.raises(ExclaveError) as refused:
            await join(thread, token, tmp_path / "second", named()[1])
        assert (refused.value.fault, refused.value.fault.code) == (Fault.TOKEN_USED_UP, 14)
        assert refused.value.message == (
            "the join token for group shop/web is used up: its one name is taken by other machines"
        )

    thread.run(attack)


def test_a_token_after_its_time_though_the_machine_says_otherwise(
    thread: ClusterThread, expired: str, tmp_path: Path
) -> None:
    """The controller removes the account, and the token inside, which was good for longer, dies with it."""

    async def attack(cluster: MeshCluster) -> None:
        await gone(cluster, SERVICE_ACCOUNTS, (f"{NAMESPACE}-vms", f"web.join.{EXPIRED}-1"))
        await until_refused(thread, expired, tmp_path, named()[1])

    thread.run(attack)


async def until_refused(thread: ClusterThread, token: str, folder: Path, address: str) -> None:
    """The API server may know it for ten seconds more; whoever uses that finds no Member of his in the end."""
    with trio.fail_after(150):
        for attempt in itertools.count():
            try:
                await join(thread, token, folder / str(attempt), address)
            except ExclaveError as refused:
                assert refused.fault is Fault.TOKEN_REVOKED
                assert refused.message.startswith("the join token for group shop/web was revoked: https://")
                return
            raise AssertionError("the account is gone, and a machine has joined")
