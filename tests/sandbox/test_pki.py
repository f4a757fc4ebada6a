"""Certificates of the demo and the tests, judged by OpenSSL and by the library's own verifier where it has one."""

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.kit.formats.x509 import not_after, not_before
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, make_leaf

NAMES: list[x509.GeneralName] = [
    x509.DNSName("web.shop.serviceaccount.identity.linkerd.cluster.local"),
    x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/web"),
]


@pytest.fixture(scope="module")
def chain() -> tuple[Authority, Authority, Authority]:
    anchor = make_anchor()
    issuer = make_issuer(anchor)
    return anchor, issuer, make_leaf(issuer, NAMES)


def shake_hands(anchor: str, pem: str, folder: Path) -> ssl.SSLObject:
    """OpenSSL at both ends, strict: the client's side. Raises ssl.SSLError."""
    (folder / "server.pem").write_text(pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "server.pem")
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.load_verify_locations(cadata=anchor)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(down, up, server_hostname=NAMES[0].value)
    server = server_context.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client


def test_openssl_follows_the_chain_and_finds_the_name(
    chain: tuple[Authority, Authority, Authority], tmp_path: Path
) -> None:
    anchor, issuer, leaf = chain
    client = shake_hands(anchor.pem, leaf.key_pem + leaf.pem + issuer.pem, tmp_path)
    peer = client.getpeercert()
    assert peer is not None
    assert peer["subjectAltName"] == (("DNS", NAMES[0].value), ("URI", NAMES[1].value))


def test_openssl_refuses_a_chain_to_another_anchor(
    chain: tuple[Authority, Authority, Authority], tmp_path: Path
) -> None:
    _, issuer, leaf = chain
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(make_anchor().pem, leaf.key_pem + leaf.pem + issuer.pem, tmp_path)


def test_openssl_refuses_a_leaf_that_signs(chain: tuple[Authority, Authority, Authority], tmp_path: Path) -> None:
    anchor, issuer, leaf = chain
    below = make_leaf(leaf, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(anchor.pem, below.key_pem + below.pem + leaf.pem + issuer.pem, tmp_path)


def test_names_are_in_order_and_the_subject_is_not_empty(
    chain: tuple[Authority, Authority, Authority],
) -> None:
    leaf = make_leaf(chain[1], NAMES, common_name="web-k7q2x-1").certificate
    assert list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == NAMES
    assert leaf.subject.rfc4514_string() == "CN=web-k7q2x-1"


def test_lifetimes_begin_a_moment_ago(chain: tuple[Authority, Authority, Authority]) -> None:
    leaf = make_leaf(chain[1], NAMES, timedelta(minutes=5)).certificate
    now = datetime.now(timezone.utc).timestamp()
    assert now - 15 < not_before(leaf) < now
    assert now + 290 < not_after(leaf) < now + 310


def test_an_issuer_signs_leaves_only(chain: tuple[Authority, Authority, Authority]) -> None:
    anchor, issuer, leaf = chain
    lengths = [
        one.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for one in (anchor, issuer)
    ]
    assert lengths == [1, 0]
    assert not leaf.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_key_is_written_as_pkcs8_and_not_printed(chain: tuple[Authority, Authority, Authority]) -> None:
    leaf = chain[2]
    read = serialization.load_pem_private_key(leaf.key_pem.encode(), None)
    assert read.private_numbers() == leaf.key.private_numbers()  # type: ignore[union-attr]
    assert "key" not in repr(leaf)
