"""Mutual TLS between two ends of the mesh: who each side is, in both forms of an identity; and who is turned away."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.kit.formats.x509 import der_of, not_after
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, make_leaf
from exclave_sandbox.standin.stream import PeekedStream
from exclave_sandbox.standin.tls import ProxyCertificate, Tls, WrongServer, first_name, is_named
from support.mesh import mesh

DNS = "web.shop.serviceaccount.identity.linkerd.cluster.local"
URI = "spiffe://cluster.local/ns/shop/sa/web"
POD = "orders.shop.serviceaccount.identity.linkerd.cluster.local"
SERVER_NAME = "web.shop.svc.cluster.local"


def pair_of(leaf: Authority, issuer: Authority) -> ProxyCertificate:
    key = leaf.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return ProxyCertificate((der_of(leaf.certificate), der_of(issuer.certificate)), key)


def end(pair: ProxyCertificate) -> Tls:
    tls = Tls(mesh().anchor.pem)
    tls.load(pair)
    return tls


def machine() -> ProxyCertificate:
    """A virtual machine's certificate: a DNS name first, then a URI."""
    return pair_of(mesh().leaf(), mesh().issuer)


def pod() -> ProxyCertificate:
    """A pod's certificate, as linkerd-identity signs it: a DNS name alone."""
    return pair_of(make_leaf(mesh().issuer, [x509.DNSName(POD)]), mesh().issuer)


@dataclass
class Met:
    """What both sides saw of each other, and one word each way."""

    client_id: str | None
    has_header: bool
    words: tuple[bytes, bytes]


async def meet(server: Tls, client: Tls, identity: str, *, transport_header: bool = False) -> Met:
    """Shake hands over a pipe in memory, and say a word each way."""
    near, far = trio.testing.memory_stream_pair()
    met = Met(None, False, (b"", b""))

    async def serve() -> None:
        stream, met.client_id, met.has_header = await server.accept(PeekedStream(far))
        heard = await stream.receive_exactly(4)
        await stream.send_all(b"pong")
        met.words = (heard, met.words[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = await client.connect(near, SERVER_NAME, identity, transport_header=transport_header)
        await stream.send_all(b"ping")
        answer = bytes(await stream.receive_some())
    met.words = (met.words[0], answer)
    return met


async def test_a_pod_and_a_machine_verify_each_other() -> None:
    to_machine = await meet(end(machine()), end(pod()), URI)
    assert (to_machine.client_id, to_machine.words) == (POD, (b"ping", b"pong"))
    to_pod = await meet(end(pod()), end(machine()), POD)
    assert to_pod.client_id == DNS  # the first of its names, whichever comes after


@pytest.mark.parametrize("identity", [URI, DNS])
async def test_a_machine_answers_to_either_of_its_names(identity: str) -> None:
    assert (await meet(end(machine()), end(pod()), identity)).words == (b"ping", b"pong")


@pytest.mark.parametrize("transport_header", [False, True])
async def test_both_sides_agree_whether_a_transport_header_follows(transport_header: bool) -> None:
    met = await meet(end(machine()), end(pod()), URI, transport_header=transport_header)
    assert met.has_header is transport_header


@pytest.mark.parametrize("identity", ["spiffe://cluster.local/ns/shop/sa/db", POD, SERVER_NAME])
async def test_a_server_with_another_identity_is_disconnected(identity: str) -> None:
    near, far = trio.testing.memory_stream_pair()
    client = end(pod())

    async def serve() -> None:
        stream, _, _ = await end(machine()).accept(PeekedStream(far))
        assert await stream.receive_some() == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(WrongServer, match=f"{identity} was expected"):
            await client.connect(near, SERVER_NAME, identity, transport_header=False)


async def test_a_client_of_another_mesh_is_refused() -> None:
    anchor = make_anchor()
    issuer = make_issuer(anchor)
    stranger = Tls(mesh().anchor.pem)  # it trusts us; we do not trust it
    stranger.load(pair_of(make_leaf(issuer, [x509.DNSName(POD)]), issuer))
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(trio.BrokenResourceError) as caught:
        async with shaking_hands(far):
            stream = await stranger.connect(near, SERVER_NAME, URI, transport_header=False)
            await stream.receive_some()  # TLS 1.3 tells a client afterwards
    assert "certificate verify failed" in str(caught.value.__cause__)


async def test_a_client_without_a_certificate_has_no_identity() -> None:
    near, far = trio.testing.memory_stream_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=mesh().anchor.pem)
    bare = trio.SSLStream(near, context, server_hostname=SERVER_NAME)
    met: list[str | None] = []

    async def serve() -> None:
        _, client_id, _ = await end(machine()).accept(PeekedStream(far))
        met.append(client_id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await bare.do_handshake()
    assert met == [None]


async def test_a_silent_client_is_not_waited_for_for_ever(autojump_clock: object) -> None:
    _near, far = trio.testing.memory_stream_pair()
    with pytest.raises(trio.TooSlowError):
        await end(machine()).accept(PeekedStream(far))


async def test_new_connections_use_the_new_certificate() -> None:
    tls = end(pair_of(mesh().leaf(), mesh().issuer))
    assert tls.refreshes == 1
    newer = pod()
    tls.load(newer)
    assert (tls.refreshes, tls.expires) == (2, not_after(x509.load_der_x509_certificate(newer.chain[0])))
    assert (await meet(tls, end(pod()), POD)).words == (b"ping", b"pong")


async def test_a_certificate_that_cannot_be_used_leaves_the_old_one() -> None:
    tls = end(machine())
    expires = tls.expires
    for wrong in (ProxyCertificate((b"no certificate",), b"no key"), ProxyCertificate(machine().chain, pod().key)):
        with pytest.raises((ValueError, ssl.SSLError)):
            tls.load(wrong)
    assert (tls.refreshes, tls.expires) == (1, expires)
    assert (await meet(tls, end(pod()), URI)).words == (b"ping", b"pong")


def test_names_in_a_certificate() -> None:
    leaf = der_of(mesh().leaf().certificate)
    assert first_name(leaf) == DNS
    assert is_named(leaf, URI) and is_named(leaf, DNS)
    assert not is_named(leaf, f"spiffe://{DNS}")
    nameless = der_of(mesh().issuer.certificate)
    for found in (nameless, b"no certificate", None):
        assert first_name(found) is None
        assert not is_named(found, DNS)


def test_a_key_is_not_printed() -> None:
    assert "key" not in repr(pod())


@asynccontextmanager
async def shaking_hands(stream: trio.abc.Stream) -> AsyncIterator[None]:
    """A machine that accepts; what it raises is raised here, whatever the client meets."""
    failure: list[Exception] = []

    async def accept() -> None:
        try:
            await end(machine()).accept(PeekedStream(stream))
        except trio.BrokenResourceError as problem:
            failure.append(problem)
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with suppress(trio.BrokenResourceError):
            yield
    raise failure[0]
