"""The controller reads a VM's CSR, and refuses any other with a reason."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.csr import MOST_BYTES, csr_sha256, key_sha256, make_csr, read_csr
from support.certificates import KEY, OTHER_KEY, name

PEM = make_csr(KEY, "web-k7q2x-1")


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(name("x")).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def with_another_signature() -> str:
    """Our CSR with the signature of another over the same length."""
    ours = x509.load_pem_x509_csr(PEM.encode())
    der = ours.public_bytes(serialization.Encoding.DER)
    while True:
        other = x509.load_pem_x509_csr(make_csr(OTHER_KEY, "web-k7q2x-1").encode()).signature
        if len(other) == len(ours.signature):
            break
    forged = x509.load_der_x509_csr(der[: -len(other)] + other)
    return forged.public_bytes(serialization.Encoding.PEM).decode()


def test_it_has_the_name_and_the_key_and_nothing_else() -> None:
    request = x509.load_pem_x509_csr(PEM.encode())
    assert request.subject == name("web-k7q2x-1")
    assert list(request.extensions) == []
    view = read_csr(PEM)
    assert view.public_key.public_numbers() == KEY.public_key().public_numbers()
    spki = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert view.key_sha256 == key_sha256(KEY.public_key()) == hashlib.sha256(spki).hexdigest()


def test_a_long_name_is_cut_to_what_a_certificate_can_hold() -> None:
    request = x509.load_pem_x509_csr(make_csr(KEY, "w" * 200).encode())
    assert request.subject == name("w" * 64)


def test_it_is_referred_to_by_the_digest_of_its_text() -> None:
    assert csr_sha256(PEM) == hashlib.sha256(PEM.encode()).hexdigest()
    assert csr_sha256(PEM) != csr_sha256(PEM + "\n")


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        pytest.param(
            request_of(ec.generate_private_key(ec.SECP384R1())),
            "csr: a P-256 key was expected, found another kind",
            id="another curve",
        ),
        pytest.param(
            request_of(rsa.generate_private_key(65537, 2048)),
            "csr: a P-256 key was expected, found another kind",
            id="an RSA key",
        ),
        pytest.param(with_another_signature(), "csr: it is not signed by its own key", id="a key that is not theirs"),
        pytest.param("", "csr: a PEM request was expected: ValueError", id="nothing"),
        pytest.param(
            PEM + " " * MOST_BYTES,
            f"csr: at most 4096 bytes were expected, found {len(PEM) + 4096}",
            id="more than a Member may have",
        ),
    ],
)
def test_a_csr_that_is_not_ours_is_refused(pem: str, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_csr(pem)
    assert str(refused.value) == text


@given(st.text(max_size=200), st.integers(0, len(PEM)))
def test_damage_raises_nothing_but_value_error(junk: str, at: int) -> None:
    try:
        read_csr(PEM[:at] + junk + PEM[at:])
    except ValueError:
        return
