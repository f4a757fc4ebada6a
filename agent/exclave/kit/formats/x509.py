"""Certificates, with functions that cryptography 38 (Debian 12) lacks. Pure."""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm

from exclave.kit.formats.times import rfc3339

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_FRAME = re.compile(r"-----(BEGIN|END) ([^-]*)-----[ \t]*")
CERTIFICATE = "CERTIFICATE"


# Version 38 has no `_utc` properties, and newer versions warn about the naive ones. It has no
# `verify_directly_issued_by` either.
def not_before(certificate: x509.Certificate) -> float:
    """The start of its validity, in epoch seconds."""
    return _epoch(certificate, "not_valid_before")


def not_after(certificate: x509.Certificate) -> float:
    """The end of its validity, in epoch seconds."""
    return _epoch(certificate, "not_valid_after")


def der_of(certificate: x509.Certificate) -> bytes:
    """The certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def pem_of(certificate: x509.Certificate) -> str:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def read_certificates(pem: str) -> tuple[x509.Certificate, ...]:
    """Every certificate of a PEM text, in order. Raises ValueError if one is damaged, or for none."""
    try:
        return tuple(x509.load_der_x509_certificate(block) for block in read_blocks(pem))
    except (ValueError, x509.InvalidVersion) as problem:
        if "found none" in str(problem):
            raise
        raise ValueError("a certificate in PEM was expected, found one that is damaged") from None


def read_certificate_file(content: bytes) -> tuple[x509.Certificate, ...]:
    """Every certificate of a PEM file as people keep it, each once, in order. Raises ValueError as above.

    Comments in any encoding, a byte order mark, UTF-16, CRLF and spaces around lines are ignored.
    """
    is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content.decode("utf-16" if is_wide else "latin-1", "replace").removeprefix("\xef\xbb\xbf")
    found = read_certificates("\n".join(line.strip() for line in re.split("[\r\n]", text)))
    return tuple({der_of(one): one for one in found}.values())


def read_blocks(pem: str) -> tuple[bytes, ...]:
    """The bytes of every certificate of a PEM text, not parsed. Raises ValueError.

    As linkerd2-proxy reads trust anchors: line by line, so a frame after a byte order mark or spaces is a comment.
    Other blocks, and text between blocks, are skipped. Source: rustls-pki-types src/pem.rs.
    """
    blocks: list[bytes] = []
    lines: list[str] = []
    label = None
    for line in re.split("[\r\n]", pem):
        frame = _FRAME.fullmatch(line)
        if line.startswith("-----BEGIN "):
            if frame is None or label is not None:
                raise ValueError("a certificate in PEM was expected, found one that is damaged")
            label, lines = frame[2], []
        elif frame is not None and label == frame[2]:
            if label == CERTIFICATE:
                blocks.append(base64.b64decode("".join("".join(lines).split()), validate=True))
            label = None
        else:
            lines.append(line)
    if label is not None:
        raise ValueError("a certificate in PEM was expected, found one that is damaged")
    if not blocks:
        raise ValueError("a certificate in PEM was expected, found none")
    return tuple(blocks)


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True if `issuer` has signed `certificate`, by name and key."""
    if certificate.issuer != issuer.subject:
        return False
    signature, content = certificate.signature, certificate.tbs_certificate_bytes
    if der_of(certificate)[-len(signature) - 1] != 0:
        return False  # the BIT STRING's count of unused bits, which webpki checks and the library does not
    try:
        key = issuer.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(_hash_of(certificate)))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, content, padding.PKCS1v15(), _hash_of(certificate))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """True if its basic constraints allow it to sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False


def is_key_of(key: PrivateKey, certificate: x509.Certificate) -> bool:
    """True if a certificate belongs to this key."""
    try:
        return _spki(key.public_key()) == _spki(certificate.public_key())
    except (UnsupportedAlgorithm, ValueError):  # a curve that the library lacks; version 38 raises ValueError
        return False


def _spki(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _hash_of(certificate: x509.Certificate) -> HashAlgorithm:
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        raise ValueError("a signature with a hash was expected")
    return algorithm


def _epoch(certificate: x509.Certificate, name: str) -> float:
    aware: datetime | None = getattr(certificate, f"{name}_utc", None)
    found: datetime = aware or getattr(certificate, name).replace(tzinfo=timezone.utc)
    return found.timestamp()


def fingerprint(certificate: x509.Certificate) -> str:
    """sha256 of a certificate's DER, in hex."""
    return hashlib.sha256(der_of(certificate)).hexdigest()


@dataclass(frozen=True)
class CertificateFields:
    """What a person reads of a certificate: its names in their order, times as RFC 3339, serial and sha256 in hex."""

    names: tuple[str, ...]
    subject: str
    issuer: str
    serial: str
    not_before: str
    not_after: str
    sha256: str

    def lines(self) -> list[tuple[str, str]]:
        """Labels and texts."""
        return [
            *(("name", name) for name in self.names),
            ("subject", self.subject),
            ("issuer", self.issuer),
            ("serial", self.serial),
            ("valid", f"from {self.not_before} until {self.not_after}"),
            ("sha256", self.sha256),
        ]

    def as_json(self) -> dict[str, Any]:
        """All fields as a JSON tree."""
        return {
            "names": list(self.names),
            "subject": self.subject,
            "issuer": self.issuer,
            "serial": self.serial,
            "notBefore": self.not_before,
            "notAfter": self.not_after,
            "sha256": self.sha256,
        }


def fields_of(certificate: x509.Certificate) -> CertificateFields:
    """What a person reads of a certificate. It may be any: one that has no names is shown without."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(name.value) for name in found)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        names = ()
    return CertificateFields(
        names,
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        f"{certificate.serial_number:x}",
        rfc3339(not_before(certificate)),
        rfc3339(not_after(certificate)),
        fingerprint(certificate),
    )
