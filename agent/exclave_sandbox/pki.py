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
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(_signed(_authority(name, key, lifetime, path_length=1), _name(name), key, key.public_key()), key)


def make_issuer(
    anchor: Authority, name: str = "identity.linkerd.cluster.local", lifetime: timedelta = timedelta(days=365)
) -> Authority:
    """An intermediate under `anchor` that signs leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _authority(name, key, lifetime, path_length=0)
    issuer = anchor.certificate.subject
    return Authority(_signed(builder, issuer, anchor.key, anchor.key.public_key()), key)


def make_leaf(
    issuer: Authority,
    names: list[x509.GeneralName],
    lifetime: timedelta = timedelta(days=1),
    common_name: str = "leaf",
) -> Authority:
    """A leaf for server and client use with these SANs, in this order, and a fresh P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(common_name, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return Authority(_signed(builder, issuer.certificate.subject, issuer.key, issuer.key.public_key()), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(name: str, key: ec.EllipticCurvePrivateKey, lifetime: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority(
    name: str, key: ec.EllipticCurvePrivateKey, lifetime: timedelta, path_length: int
) -> x509.CertificateBuilder:
    return (
        _builder(name, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
) -> x509.Certificate:
    return (
        builder.issuer_name(issuer)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )
