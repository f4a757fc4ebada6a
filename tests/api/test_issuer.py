"""The issuer's Secret in both layouts, and every reason not to sign with it."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa, x25519

from exclave.api.csr import make_csr
from exclave.api.issuer import has_ring, identity_fault, read_anchors, read_issuer, refit_issuer
from exclave.api.settings import LinkerdSettings
from exclave.controller.policy.sign import sign
from exclave.kit.formats.x509 import fingerprint, pem_of
from support.certificates import (
    ANCHOR_KEY,
    IDENTITY,
    ISSUER_KEY,
    KEY,
    NOW,
    OTHER_KEY,
    PrivateKey,
    ca,
    certify,
    make_anchor,
    make_issuer,
    make_leaf,
)
from support.issuers import EXPIRED_ROOT, ROWS, Row, text, without_group

ANCHOR, ISSUER = make_anchor(), make_issuer()
MIDDLE = certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(1))
UNDER_MIDDLE = certify("issuer", ISSUER_KEY, "middle", OTHER_KEY, ca())
OLD_ANCHOR = certify("old", OTHER_KEY, "old", OTHER_KEY, ca(1))


def key_text(key: PrivateKey | x25519.X25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


P256 = bytes.fromhex("2a8648ce3d030107")
"""Object identifier of the curve, encoded (RFC 5480)."""


def secret(
    chain: Sequence[x509.Certificate],
    key: PrivateKey | x25519.X25519PrivateKey = ISSUER_KEY,
    layout: tuple[str, str] = ("crt.pem", "key.pem"),
) -> dict[str, Any]:
    texts = ("".join(map(pem_of, chain)), key_text(key))
    return {"data": {name: base64.b64encode(text.encode()).decode() for name, text in zip(layout, texts, strict=True)}}


def of_unknown_curve(key: PrivateKey) -> bytes:
    """The key as PEM, with the number of a curve that does not exist."""
    der = base64.b64decode("".join(key_text(key).split("-----")[2].split())).replace(P256, P256[:-1] + b"\x77")
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("layout", [("crt.pem", "key.pem"), ("tls.crt", "tls.key")], ids=["Linkerd", "cert-manager"])
def test_both_layouts_are_read(layout: tuple[str, str]) -> None:
    issuer = read_issuer(secret([ISSUER], layout=layout), pem_of(ANCHOR), NOW)
    assert issuer.chain == (ISSUER,) and issuer.certificate == ISSUER
    assert issuer.sha256 == fingerprint(ISSUER)
    assert issuer.not_after == NOW + 3600
    assert "PrivateKey" not in repr(issuer)


@pytest.mark.parametrize(
    ("chain", "anchors", "sent"),
    [
        pytest.param([ISSUER, ANCHOR], [ANCHOR], [ISSUER], id="an anchor in the Secret is not sent along"),
        pytest.param([UNDER_MIDDLE, MIDDLE], [ANCHOR], [UNDER_MIDDLE, MIDDLE], id="what lies between is"),
        pytest.param([ISSUER], [OLD_ANCHOR, ANCHOR], [ISSUER], id="any of several anchors will do"),
    ],
)
def test_the_chain_that_members_get(
    chain: list[x509.Certificate], anchors: list[x509.Certificate], sent: list[x509.Certificate]
) -> None:
    assert read_issuer(secret(chain), "".join(map(pem_of, anchors)), NOW).chain == tuple(sent)


def test_an_anchor_that_signs_itself_is_sent_since_a_chain_needs_one() -> None:
    assert read_issuer(secret([ANCHOR], ANCHOR_KEY), pem_of(ANCHOR), NOW).chain == (ANCHOR,)


def test_it_ends_when_the_first_of_its_chain_does() -> None:
    middle = certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(1), (-10, 60))
    assert read_issuer(secret([UNDER_MIDDLE, middle]), pem_of(ANCHOR), NOW).not_after == NOW + 60


def test_an_rsa_issuer_is_accepted() -> None:
    key = rsa.generate_private_key(65537, 2048)
    issuer = certify("issuer", key, "root", ANCHOR_KEY, ca())
    assert read_issuer(secret([issuer], key), pem_of(ANCHOR), NOW).certificate == issuer


X25519 = x25519.X25519PrivateKey.generate()
ENCRYPTED = ISSUER_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
)
REFUSED_BY = "what the issuer signs would be refused by proxies: "
LAYOUTS = "the issuer Secret holds neither crt.pem and key.pem nor tls.crt and tls.key"
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "an empty Secret": ({}, LAYOUTS),
    "half of each layout": ({"data": {"crt.pem": "", "tls.key": ""}}, LAYOUTS),
    "what is not base64": (
        {"data": {"tls.crt": "*", "tls.key": "*"}},
        "the issuer Secret's tls.crt or tls.key is not PEM",
    ),
    "what is not PEM": (
        {"data": {"crt.pem": "aGk=", "key.pem": "aGk="}},
        "the issuer Secret's crt.pem or key.pem is not PEM",
    ),
    "a key that signs nothing here": (
        secret([ISSUER], X25519),
        "the issuer's key is neither an elliptic curve's nor RSA nor Ed25519",
    ),
    "a key with a passphrase": (
        {"data": {**secret([ISSUER])["data"], "key.pem": base64.b64encode(ENCRYPTED).decode()}},
        "the issuer Secret's key.pem is encrypted: store the key without a passphrase",
    ),
    "more certificates than anybody needs": (
        secret([ISSUER] * 21),
        "the issuer Secret holds more than 20 certificates",
    ),
    "a key of a curve that no library has": (
        {"data": {**secret([ISSUER])["data"], "key.pem": base64.b64encode(of_unknown_curve(ISSUER_KEY)).decode()}},
        "the issuer Secret's crt.pem or key.pem is not PEM",
    ),
    "another's key": (secret([ISSUER], OTHER_KEY), "the issuer's key does not belong to its certificate"),
    "an expired issuer": (
        secret([make_issuer(valid=(-99, -1))]),
        f"{REFUSED_BY}'CN=issuer' has expired",
    ),
    "an issuer of tomorrow": (
        secret([make_issuer(valid=(9, 99))]),
        f"{REFUSED_BY}'CN=issuer' is not valid yet",
    ),
    "an expired one above it": (
        secret([UNDER_MIDDLE, certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(1), (-99, -1))]),
        f"{REFUSED_BY}'CN=middle' has expired",
    ),
    "a leaf that would sign": (
        secret([make_leaf(key=ISSUER_KEY, issuer="root", issuer_key=ANCHOR_KEY)]),
        f"{REFUSED_BY}'CN=web-k7q2x-1' is no CA's",
    ),
    "an issuer without constraints": (
        secret([make_issuer(extensions=())]),
        f"{REFUSED_BY}'CN=issuer' is no CA's",
    ),
    "another mesh's issuer": (
        secret([certify("issuer", ISSUER_KEY, "root", OTHER_KEY, ca())]),
        "the issuer does not lead to the trust anchors that Linkerd publishes",
    ),
    "a chain with something unrelated at its end": (
        secret([certify("issuer", ISSUER_KEY, "elsewhere", OTHER_KEY, ca()), MIDDLE]),
        "the issuer does not lead to the trust anchors that Linkerd publishes",
    ),
}


@pytest.mark.parametrize(("found", "text"), REFUSED.values(), ids=REFUSED)
def test_an_issuer_that_may_not_sign_is_refused_without_quoting_secrets(found: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_issuer(found, pem_of(ANCHOR), NOW)
    assert str(refused.value) == text
    assert refused.value.__cause__ is None


def linkerd(version: str) -> LinkerdSettings:
    return LinkerdSettings("linkerd", "cluster.local", "cluster.local", (), version, "deny", "")


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_people_make_is_used_or_refused_with_the_reason(row: Row) -> None:
    try:
        anchors = read_anchors({"data": {"ca-bundle.crt": row.anchors}})
        fault = read_issuer(row.secret, anchors, NOW, linkerd(row.version)) and ""
    except ValueError as problem:
        fault = str(problem)
    assert (row.fault in fault) if row.fault else (fault == "")


def test_name_constraints_wait_until_the_mesh_is_known() -> None:
    row = ROWS["names of another mesh"]
    assert read_issuer(row.secret, row.anchors, NOW).certificate == row.issuer


def test_a_key_is_found_behind_the_parameters_of_its_curve() -> None:
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    found = secret([ISSUER])
    found["data"]["key.pem"] = base64.b64encode(f"\ufeff{parameters}{key_text(ISSUER_KEY)}".encode()).decode()
    assert read_issuer(found, pem_of(ANCHOR), NOW).certificate == ISSUER


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("stable-2.16.0", True),
        ("enterprise-2.18.3", True),
        ("v2.18", True),
        ("2.19.1", False),
        ("stable-2.20.0", False),
        ("edge-25.8.1", True),
        ("edge-25.8.2", False),
        ("edge-25.10.1", False),
        ("edge-24.11.8", True),
        ("git-0a1b2c3", False),
        ("", False),
    ],
)
def test_versions_of_linkerd_whose_proxies_have_ring(version: str, expected: bool) -> None:
    assert has_ring(version) == expected


def test_an_issuer_fits_other_anchors_or_does_not() -> None:
    issuer = read_issuer(secret([ISSUER]), pem_of(ANCHOR), NOW)
    assert refit_issuer(issuer, text(OLD_ANCHOR, ANCHOR), NOW + 7200, None) == issuer
    with pytest.raises(ValueError, match="does not lead to the trust anchors"):
        refit_issuer(issuer, text(OLD_ANCHOR), NOW, None)
    with pytest.raises(ValueError, match="'CN=root' has expired"):
        refit_issuer(issuer, text(EXPIRED_ROOT), NOW, None)


def test_a_name_that_the_issuer_may_not_certify_is_refused_before_it_is_signed() -> None:
    first = without_group("shop")
    issuer = read_issuer(secret([first]), pem_of(ANCHOR), NOW, linkerd(""))
    assert identity_fault(issuer.path, replace(IDENTITY, namespace="bank")) is None
    assert identity_fault(issuer.path, IDENTITY) == (
        "'CN=issuer' excludes the name 'web.shop.serviceaccount.identity.linkerd.cluster.local' (name constraints)"
    )
    with pytest.raises(ValueError, match="proxies would refuse the certificate: 'CN=issuer' excludes the name"):
        sign(make_csr(KEY, "web"), "web", IDENTITY, 60.0, issuer, now=NOW, serial=7)
