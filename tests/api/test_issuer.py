"""The issuer's Secret in both layouts, and every reason not to sign with it."""

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from exclave.api.issuer import read_issuer
from exclave.kit.formats.x509 import fingerprint, pem_of
from support.certificates import (
    ANCHOR_KEY,
    ISSUER_KEY,
    NOW,
    OTHER_KEY,
    PrivateKey,
    ca,
    certify,
    make_anchor,
    make_issuer,
    make_leaf,
)

ANCHOR, ISSUER = make_anchor(), make_issuer()
MIDDLE = certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(1))
UNDER_MIDDLE = certify("issuer", ISSUER_KEY, "middle", OTHER_KEY, ca())
OLD_ANCHOR = certify("old", OTHER_KEY, "old", OTHER_KEY, ca(1))


def key_text(key: PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


P256 = bytes.fromhex("2a8648ce3d030107")
"""Object identifier of the curve, encoded (RFC 5480)."""


def secret(
    chain: Sequence[x509.Certificate], key: PrivateKey = ISSUER_KEY, layout: tuple[str, str] = ("crt.pem", "key.pem")
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


ED25519 = ed25519.Ed25519PrivateKey.generate()
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
        secret([ISSUER], ED25519),
        "the issuer's key is neither an elliptic curve's nor RSA",
    ),
    "a key of a curve that no library has": (
        {"data": {**secret([ISSUER])["data"], "key.pem": base64.b64encode(of_unknown_curve(ISSUER_KEY)).decode()}},
        "the issuer Secret's crt.pem or key.pem is not PEM",
    ),
    "another's key": (secret([ISSUER], OTHER_KEY), "the issuer's key does not belong to its certificate"),
    "an expired issuer": (
        secret([make_issuer(valid=(-99, -1))]),
        "the issuer's certificate, or one above it, is not valid now",
    ),
    "an issuer of tomorrow": (
        secret([make_issuer(valid=(9, 99))]),
        "the issuer's certificate, or one above it, is not valid now",
    ),
    "an expired one above it": (
        secret([UNDER_MIDDLE, certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(1), (-99, -1))]),
        "the issuer's certificate, or one above it, is not valid now",
    ),
    "a leaf that would sign": (
        secret([make_leaf(key=ISSUER_KEY, issuer="root", issuer_key=ANCHOR_KEY)]),
        "the issuer's certificate, or one above it, is no CA's",
    ),
    "an issuer without constraints": (
        secret([make_issuer(extensions=())]),
        "the issuer's certificate, or one above it, is no CA's",
    ),
    "another mesh's issuer": (
        secret([certify("issuer", ISSUER_KEY, "root", OTHER_KEY, ca())]),
        "the issuer does not lead to the trust anchors that Linkerd publishes",
    ),
    "a chain with something unrelated at its end": (
        secret([certify("issuer", ISSUER_KEY, "elsewhere", OTHER_KEY, ca()), MIDDLE]),
        "the issuer's chain is not in order: each certificate must be signed by the next",
    ),
}


@pytest.mark.parametrize(("found", "text"), REFUSED.values(), ids=REFUSED)
def test_an_issuer_that_may_not_sign_is_refused_without_quoting_secrets(found: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_issuer(found, pem_of(ANCHOR), NOW)
    assert str(refused.value) == text
    assert refused.value.__cause__ is None
