"""Certificates read the same with Debian 12's library and with the newest."""

import base64
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from exclave.kit.formats.times import epoch
from exclave.kit.formats.x509 import (
    der_of,
    fields_of,
    is_authority,
    is_issued_by,
    is_key_of,
    not_after,
    not_before,
    pem_of,
    read_blocks,
    read_certificates,
)
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


def test_validity_is_epoch_seconds_whatever_the_local_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert (not_before(ISSUER), not_after(ISSUER)) == (NOW - 10, NOW + 3600)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_certificates_are_read_in_order_with_text_between_them() -> None:
    text = "subject=issuer\r\n" + pem_of(ISSUER).replace("\n", "\r\n") + "# and above it\n" + pem_of(ANCHOR)
    assert read_certificates(text) == (ISSUER, ANCHOR)
    assert read_blocks(text) == (der_of(ISSUER), der_of(ANCHOR))


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        pytest.param("", "a certificate in PEM was expected, found none", id="an empty text"),
        pytest.param("MIIB", "a certificate in PEM was expected, found none", id="base64 without its frame"),
        pytest.param(
            pem_of(ISSUER) + pem_of(ANCHOR)[:200],
            "a certificate in PEM was expected, found one that is damaged",
            id="a second certificate that is cut off",
        ),
        pytest.param(
            "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n",
            "a certificate in PEM was expected, found one that is damaged",
            id="base64 of what is no certificate",
        ),
        pytest.param(
            pem_of(ISSUER).replace("\nMII", "\n*MII", 1),
            "a certificate in PEM was expected, found one that is damaged",
            id="a character that is not base64",
        ),
    ],
)
def test_a_damaged_text_is_refused(pem: str, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_certificates(pem)
    assert str(refused.value) == text


def test_blocks_are_the_bytes_as_they_stand_even_if_no_certificate_reads_them() -> None:
    body = base64.b64encode(b"anything").decode()
    assert read_blocks(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----") == (b"anything",)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256, Linkerd's default"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA, as corporate roots are"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="Ed25519"),
    ],
)
def test_an_issuer_of_any_usual_kind_is_recognised_by_its_signature(key: PrivateKey) -> None:
    root = certify("root", key, "root", key, ca(1))
    issuer = certify("issuer", ISSUER_KEY, "root", key, ca())
    assert is_issued_by(issuer, root)
    impostor = certify("root", OTHER_KEY, "root", OTHER_KEY, ca(1))
    assert not is_issued_by(issuer, impostor)


def test_the_right_key_under_another_name_is_not_the_issuer() -> None:
    assert is_issued_by(ISSUER, ANCHOR)
    assert not is_issued_by(ISSUER, certify("other", ANCHOR_KEY, "other", ANCHOR_KEY, ca(1)))
    assert not is_issued_by(ANCHOR, ISSUER)


def test_who_may_sign_and_whose_key_it_is() -> None:
    assert is_authority(ISSUER) and is_authority(ANCHOR)
    assert not is_authority(make_leaf())
    assert is_key_of(ISSUER_KEY, ISSUER)
    assert not is_key_of(OTHER_KEY, ISSUER)


def test_a_curve_that_the_library_lacks_is_nobodys() -> None:
    p256 = bytes.fromhex("2a8648ce3d030107")  # the curve's object identifier (RFC 5480)
    odd = x509.load_der_x509_certificate(der_of(ANCHOR).replace(p256, p256[:-1] + b"\x77"))
    assert not is_issued_by(ISSUER, odd)
    assert not is_key_of(ANCHOR_KEY, odd)


def test_a_certificate_with_an_extension_twice_signs_nothing() -> None:
    usage, constraints = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d13")  # object identifiers (RFC 5280)
    der = der_of(ANCHOR)
    assert usage in der and constraints in der
    assert not is_authority(x509.load_der_x509_certificate(der.replace(usage, constraints)))


def test_what_a_person_reads_of_a_leaf() -> None:
    leaf = make_leaf()
    found = fields_of(leaf)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.names == tuple(name.value for name in names)
    assert found.serial == f"{leaf.serial_number:x}"
    assert (epoch(found.not_before), epoch(found.not_after)) == (not_before(leaf), not_after(leaf))
    assert dict(found.lines())["valid"] == f"from {found.not_before} until {found.not_after}"
    assert set(found.as_json()) == {"names", "subject", "issuer", "serial", "notBefore", "notAfter", "sha256"}


def test_a_certificate_without_names_or_with_damaged_ones_is_shown_without() -> None:
    assert fields_of(ANCHOR).names == ()
    identifier = bytes.fromhex("0603551d11")  # the object identifier of the names (RFC 5280)
    leaf = make_leaf()
    twice = der_of(leaf).replace(bytes.fromhex("0603551d13"), identifier)
    assert fields_of(x509.load_der_x509_certificate(twice)).names == ()
