"""Builds certificates that break one rule each, which `check_svid` must refuse, with the library alone."""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave.api.identity import MeshIdentity

NOW = 1_800_000_000
IDENTITY = MeshIdentity("web", "shop", "linkerd", "cluster.local")
SANS = (x509.DNSName(IDENTITY.dns_name), x509.UniformResourceIdentifier(IDENTITY.spiffe_id))
TLS_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
KEY, ISSUER_KEY, ANCHOR_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))


def name(common_name: str) -> x509.Name:
    """A subject; empty for an empty text."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def usage(**wanted: bool) -> x509.KeyUsage:
    """A KeyUsage with these bits."""
    bits = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{bit: wanted.get(bit, False) for bit in (*bits, *more)})


def certify(
    subject: str,
    key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    extensions: Sequence[x509.ExtensionType],
    valid: tuple[int, int] = (-10, 3600),
) -> x509.Certificate:
    """A certificate; `valid` is seconds from NOW."""
    begins, ends = (datetime.fromtimestamp(NOW + offset, timezone.utc) for offset in valid)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(0x7A)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


def ca(path_length: int | None = 0, signs: bool = True) -> tuple[x509.ExtensionType, ...]:
    """The extensions of an issuer."""
    return (x509.BasicConstraints(ca=True, path_length=path_length), usage(key_cert_sign=signs, crl_sign=True))


def make_anchor(**options: Any) -> x509.Certificate:
    """A self-signed anchor."""
    return certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, ca(1), **options)


def make_issuer(**options: Any) -> x509.Certificate:
    """An intermediate under the anchor."""
    return certify("issuer", ISSUER_KEY, "root", ANCHOR_KEY, **{"extensions": ca(), **options})


def make_leaf(
    subject: str = "web-k7q2x-1",
    sans: Sequence[x509.GeneralName] = SANS,
    bits: x509.KeyUsage | None = None,
    purposes: Sequence[x509.ObjectIdentifier] = TLS_BOTH,
    authority: bool = False,
    issuer: str = "issuer",
    issuer_key: PrivateKey = ISSUER_KEY,
    key: PrivateKey = KEY,
    valid: tuple[int, int] = (-10, 3600),
) -> x509.Certificate:
    """A leaf as the controller signs it, apart from the arguments."""
    extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=authority, path_length=None)]
    extensions.append(bits or usage(digital_signature=True))
    if purposes:
        extensions.append(x509.ExtendedKeyUsage(purposes))
    if sans:
        extensions.append(x509.SubjectAlternativeName(sans))
    return certify(subject, key, issuer, issuer_key, extensions, valid)
