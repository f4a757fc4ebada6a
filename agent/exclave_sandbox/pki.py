"""A mesh's certificates for the demo and the tests: trust anchor, issuer, and leaves as linkerd-identity signs them.

Beside the VM's own key and the admin's installer, only this module makes keys.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave.kit.formats.x509 import pem_of

BACKDATE = timedelta(seconds=10)


@dataclass(frozen=True)
class Authority:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return pem_of(self.certificate)

    @property
    def key_pem(self) -> str:
        """The key as PKCS#8 PEM."""
        return key_pem_of(self.key)


def key_pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    """A key as PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def make_anchor(name: str = "root.linkerd.cluster.local", lifetime: timedelta = timedelta(days=3650)) -> Authority:
    """A self-signed trust anchor."""
    return _make(name, None, lifetime, _authority(path_length=1))


def make_issuer(
    anchor: Authority, name: str = "identity.linkerd.cluster.local", lifetime: timedelta = timedelta(days=365)
) -> Authority:
    """An intermediate under `anchor` that signs leaves only."""
    return _make(name, anchor, lifetime, _authority(path_length=0))


def make_leaf(
    issuer: Authority, names: list[x509.GeneralName], lifetime: timedelta = timedelta(days=1), common_name: str = "leaf"
) -> Authority:
    """A leaf for server and client use with these SANs, in this order, and a new P-256 key."""
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (usages, False),
        (x509.SubjectAlternativeName(names), False),
    ]
    return _make(common_name, issuer, lifetime, extensions)


def _make(
    name: str, issuer: Authority | None, lifetime: timedelta, extensions: list[tuple[x509.ExtensionType, bool]]
) -> Authority:
    """A certificate with a new key, self-signed without an issuer; each extension has its criticality."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
    )
    identifiers: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    for extension, critical in (*identifiers, *extensions):
        builder = builder.add_extension(extension, critical=critical)
    return Authority(builder.sign(signer, hashes.SHA256()), key)


def _authority(path_length: int) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.BasicConstraints(ca=True, path_length=path_length), True), (_usage(signs_certificates=True), True)]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **dict.fromkeys((*unused, "decipher_only"), False),
    )
