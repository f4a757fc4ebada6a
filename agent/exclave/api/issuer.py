"""Reads the issuer's certificate and key from its Secret, and verifies that the mesh trusts it. Pure.

Layouts: `crt.pem` and `key.pem` (Linkerd's own), `tls.crt` and `tls.key` (kubernetes.io/tls, as cert-manager writes).
"""

import base64
import binascii
from dataclasses import dataclass, field
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from exclave.api.requests import Object
from exclave.kit.formats.x509 import (
    der_of,
    fingerprint,
    is_authority,
    is_issued_by,
    is_key_of,
    not_after,
    not_before,
    read_certificates,
)

LAYOUTS = (("crt.pem", "key.pem"), ("tls.crt", "tls.key"))

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issuer:
    """The issuer's chain (its own certificate first, without the anchor) and its key."""

    chain: tuple[x509.Certificate, ...]
    private_key: SigningKey = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The issuing certificate."""
        return self.chain[0]

    @property
    def sha256(self) -> str:
        """The issuing certificate's fingerprint, in hex."""
        return fingerprint(self.certificate)

    @property
    def not_after(self) -> float:
        """The earliest end in the chain, epoch seconds: no certificate is valid longer."""
        return min(not_after(certificate) for certificate in self.chain)


def read_issuer(secret: Object, anchors_pem: str, now: float) -> Issuer:
    """Read and verify an issuer Secret. Raises ValueError with the reason, which quotes nothing secret."""
    content = secret.get("data") or {}
    layout = next((layout for layout in LAYOUTS if all(key in content for key in layout)), None)
    if layout is None:
        raise ValueError("the issuer Secret holds neither crt.pem and key.pem nor tls.crt and tls.key")
    try:
        certificate, key_pem = (base64.b64decode(content[key], validate=True) for key in layout)
        chain = read_certificates(certificate.decode())
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (binascii.Error, UnsupportedAlgorithm, ValueError, TypeError):
        raise ValueError(f"the issuer Secret's {layout[0]} or {layout[1]} is not PEM") from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ValueError("the issuer's key is neither an elliptic curve's nor RSA")
    _verify(chain, key, anchors_pem, now)
    anchors = {der_of(anchor) for anchor in read_certificates(anchors_pem)}
    return Issuer(tuple(one for one in chain if der_of(one) not in anchors) or chain, key)


def leads_to(chain: tuple[x509.Certificate, ...], anchors_pem: str) -> bool:
    """True if a chain ends at one of these anchors, or just below it. Raises ValueError if they cannot be read."""
    anchors = read_certificates(anchors_pem)
    return any(is_issued_by(chain[-1], anchor) or der_of(anchor) == der_of(chain[-1]) for anchor in anchors)


def has_anchor_key(issuer: Issuer, anchors_pem: str) -> bool:
    """True if the issuer's key is that of a trust anchor, also in another certificate. Raises ValueError."""
    return any(is_key_of(issuer.private_key, anchor) for anchor in read_certificates(anchors_pem))


def _verify(chain: tuple[x509.Certificate, ...], key: SigningKey, anchors_pem: str, now: float) -> None:
    if not is_key_of(key, chain[0]):
        raise ValueError("the issuer's key does not belong to its certificate")
    for certificate in chain:
        if not not_before(certificate) <= now < not_after(certificate):
            raise ValueError("the issuer's certificate, or one above it, is not valid now")
        if not is_authority(certificate):
            raise ValueError("the issuer's certificate, or one above it, is no CA's")
    if not all(is_issued_by(below, above) for below, above in pairwise(chain)):
        raise ValueError("the issuer's chain is not in order: each certificate must be signed by the next")
    if not leads_to(chain, anchors_pem):
        raise ValueError("the issuer does not lead to the trust anchors that Linkerd publishes")


def read_anchors(config_map: Object) -> str:
    """Read `linkerd-identity-trust-roots`. Raises ValueError if it holds no certificate."""
    anchors = str((config_map.get("data") or {}).get("ca-bundle.crt") or "")
    try:
        read_certificates(anchors)
    except ValueError as problem:
        raise ValueError(f"ConfigMap linkerd-identity-trust-roots: {problem}") from None
    return anchors
