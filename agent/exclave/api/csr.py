"""Certificate signing requests of machines: a name and a new public key. The controller decides all the rest. Pure."""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MOST_BYTES = 4096  # bytes of a CSR in a Member at most
MOST_COMMON_NAME = 64  # characters, by RFC 5280's ub-common-name


@dataclass(frozen=True)
class CsrView:
    """A CSR whose signature is valid. `key_sha256` is of the SubjectPublicKeyInfo, in hex."""

    public_key: ec.EllipticCurvePublicKey
    key_sha256: str


def make_csr(key: ec.EllipticCurvePrivateKey, common_name: str) -> str:
    """A CSR for this key, as PEM. A longer name is cut to 64 characters."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:MOST_COMMON_NAME])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def read_csr(pem: str) -> CsrView:
    """Read a CSR. Raises ValueError if it is too long or damaged, not signed by its own key, or not of a P-256 key."""
    if len(pem.encode()) > MOST_BYTES:
        raise ValueError(f"csr: at most {MOST_BYTES} bytes were expected, found {len(pem.encode())}")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        is_valid = request.is_signature_valid
    except Exception as problem:  # the library raises many types for damaged input
        raise ValueError(f"csr: a PEM request was expected: {type(problem).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("csr: a P-256 key was expected, found another kind")
    if not is_valid:
        raise ValueError("csr: it is not signed by its own key")
    return CsrView(key, key_sha256(key))


def key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """sha256 of a public key's SubjectPublicKeyInfo, in hex."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def csr_sha256(pem: str) -> str:
    """sha256 of a CSR's PEM text, in hex, as in `status.certificate.csrSha256`."""
    return hashlib.sha256(pem.encode()).hexdigest()
