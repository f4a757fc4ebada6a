"""Reads the issuer's certificate and key from its Secret, and verifies that proxies accept what it signs. Pure.

Layouts: `crt.pem` and `key.pem` (Linkerd's own), `tls.crt` and `tls.key` (kubernetes.io/tls, as cert-manager writes).
A Secret may have more certificates, in any order, and text around them. The chain that members get is the path from
the key's certificate to a trust anchor, no more. A leaf is signed and checked before an issuer is used.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave.api.identity import MeshIdentity
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings
from exclave.kit.formats.certificate_path import name_fault, path_fault, paths_to_anchors
from exclave.kit.formats.x509 import (
    PrivateKey,
    fingerprint,
    is_key_of,
    not_after,
    read_certificates,
)

LAYOUTS = (("crt.pem", "key.pem"), ("tls.crt", "tls.key"))

MOST_CERTIFICATES = 20  # in a Secret. Finding a path through more takes too long if all have signed each other.

MOST_PATHS = 100  # that are tried; rustls-webpki checks at most 100 signatures

BACKDATED = 10.0  # seconds before now at which validity of a leaf starts, since clocks differ

FIRST_EDGE_WITHOUT_RING = (25, 8, 2)
FIRST_RELEASE_WITHOUT_RING = (2, 19)
"""From here on linkerd2-proxy has aws-lc instead of ring. Source: linkerd2-proxy pull request 4043, in v2.312.0."""

_EDGE = re.compile(r"edge-(\d+)\.(\d+)\.(\d+)")
_RELEASE = re.compile(r"(?:stable-|enterprise-|v)?(2)\.(\d+)(?:\..*)?")
_KEY = re.compile("-----BEGIN ((?:[A-Z0-9]+ )?PRIVATE KEY)-----.*?-----END \\1-----", re.DOTALL)


@dataclass(frozen=True)
class Issuer:
    """The issuer's chain (its own certificate first, without the anchor) and its key.

    `anchor`: the trust anchor of the chain; None only in tests. `has_ring`: the mesh's proxies have ring, not aws-lc.
    """

    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False)
    anchor: x509.Certificate | None = None
    has_ring: bool = False

    @property
    def certificate(self) -> x509.Certificate:
        """The issuing certificate."""
        return self.chain[0]

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """The chain and its anchor."""
        if self.anchor is None or self.anchor == self.chain[-1]:
            return self.chain
        return (*self.chain, self.anchor)

    @property
    def sha256(self) -> str:
        """The issuing certificate's fingerprint, in hex."""
        return fingerprint(self.certificate)

    @property
    def not_after(self) -> float:
        """The earliest end in the chain, epoch seconds: no certificate is valid longer."""
        return min(not_after(certificate) for certificate in self.chain)


def has_ring(linkerd_version: str) -> bool:
    """True if the proxies of this version of Linkerd have ring, which lacks P-521, and SHA-512 for ECDSA."""
    if edge := _EDGE.match(linkerd_version):
        return tuple(map(int, edge.groups())) < FIRST_EDGE_WITHOUT_RING
    release = _RELEASE.fullmatch(linkerd_version)
    return release is not None and tuple(map(int, release.groups())) < FIRST_RELEASE_WITHOUT_RING


def read_issuer(secret: Object, anchors_pem: str, now: float, linkerd: LinkerdSettings | None = None) -> Issuer:
    """Read and verify an issuer Secret. Raises ValueError with the reason, which quotes nothing secret.

    `linkerd`: the mesh whose names it must be able to sign, and whose proxies check that; None if unknown.
    """
    content = secret.get("data") or {}
    layout = next((layout for layout in LAYOUTS if all(key in content for key in layout)), None)
    if layout is None:
        raise ValueError("the issuer Secret holds neither crt.pem and key.pem nor tls.crt and tls.key")
    not_pem = f"the issuer Secret's {layout[0]} or {layout[1]} is not PEM"
    try:
        certificate, key_pem = (_text(content[key]) for key in layout)
        found = read_certificates(certificate)
    except (ValueError, TypeError):
        raise ValueError(not_pem) from None
    key = _read_key(key_pem, not_pem, layout[1])
    if len(found) > MOST_CERTIFICATES:
        raise ValueError(f"the issuer Secret holds more than {MOST_CERTIFICATES} certificates")
    firsts = [one for one in found if is_key_of(key, one)]
    if not firsts:
        raise ValueError("the issuer's key does not belong to its certificate")
    anchors, faults = read_certificates(anchors_pem), []
    for first in firsts:  # a renewed certificate may stand beside the former one
        try:
            return _fitted(key, first, found, anchors, now, linkerd)
        except ValueError as problem:
            faults.append(str(problem))
    raise ValueError(faults[0])


def refit_issuer(issuer: Issuer, anchors_pem: str, now: float, linkerd: LinkerdSettings | None) -> Issuer:
    """The same issuer below other anchors, also if its chain has expired. Raises ValueError with the reason."""
    then = min(now, issuer.not_after - 1)
    first, *others = issuer.chain
    return _fitted(issuer.private_key, first, others, read_certificates(anchors_pem), then, linkerd)


def _fitted(
    key: PrivateKey,
    first: x509.Certificate,
    others: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    now: float,
    linkerd: LinkerdSettings | None,
) -> Issuer:
    """An issuer with the path to one of the anchors, whose leaf proxies accept. Raises ValueError."""
    ring = linkerd is not None and has_ring(linkerd.proxy_version)
    faults = []
    for path in islice(paths_to_anchors(first, others, anchors), MOST_PATHS):
        # A leaf needs a certificate above it, also if that is the anchor itself.
        issuer = Issuer(path[:-1] or path, key, path[-1], ring)
        fault = sample_fault(issuer, linkerd, now)
        if fault is None:
            return issuer
        faults.append(f"what the issuer signs would be refused by proxies: {fault}")
    raise ValueError(faults[0] if faults else "the issuer does not lead to the trust anchors that Linkerd publishes")


def sample_fault(issuer: Issuer, linkerd: LinkerdSettings | None, now: float) -> str | None:
    """Sign a leaf for a name in the mesh; the reason why proxies would refuse it, None if they accept it."""
    identity = None if linkerd is None else MeshIdentity("sample", "sample", linkerd.namespace, linkerd.trust_domain)
    leaf = make_leaf(issuer, issuer.private_key.public_key(), "sample", identity, now - 1, now + 60, serial=1)
    return leaf_fault(issuer, leaf, now)


def leaf_fault(issuer: Issuer, leaf: x509.Certificate, now: float) -> str | None:
    """The reason why proxies would refuse a leaf of this issuer, None if they accept it."""
    return path_fault((leaf,), issuer.path, now, has_ring=issuer.has_ring)


def identity_fault(issuers: Sequence[x509.Certificate], identity: MeshIdentity) -> str | None:
    """The reason why these issuers may not certify an identity by their name constraints, None if they may."""
    return name_fault(issuers, _names(identity))


def make_leaf(
    issuer: Issuer,
    public_key: Any,
    common_name: str,
    identity: MeshIdentity | None,
    begins: float,
    ends: float,
    *,
    serial: int,
) -> x509.Certificate:
    """Sign a member's certificate, valid from `begins` to `ends`, epoch seconds. A sample may have no identity."""
    is_plain = isinstance(issuer.private_key, ed25519.Ed25519PrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_time(begins))
        .not_valid_after(_time(ends))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private_key.public_key()), critical=False
        )
    )
    if identity is not None:
        builder = builder.add_extension(_names(identity), critical=False)
    return builder.sign(issuer.private_key, None if is_plain else hashes.SHA256())


def _names(identity: MeshIdentity) -> x509.SubjectAlternativeName:
    # The proxy uses the first SAN as a client's name, so the DNS name precedes the SPIFFE URI.
    return x509.SubjectAlternativeName(
        [x509.DNSName(identity.dns_name), x509.UniformResourceIdentifier(identity.spiffe_id)]
    )


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _time(epoch: float) -> datetime:
    return datetime.fromtimestamp(int(epoch), timezone.utc)


def _text(encoded: str) -> str:
    """A value of a Secret. What editors add is removed: a byte order mark, and spaces before lines."""
    found = base64.b64decode(encoded, validate=True).decode("utf-8", "replace").removeprefix("\ufeff")
    return "\n".join(line.strip() for line in re.split("[\r\n]+", found))


def _read_key(pem: str, not_pem: str, name: str) -> PrivateKey:
    block = _KEY.search(pem)  # `openssl ecparam -genkey` writes another block before it
    if block is None:
        raise ValueError(not_pem)
    if "ENCRYPTED" in block[0]:
        raise ValueError(f"the issuer Secret's {name} is encrypted: store the key without a passphrase")
    try:
        key = serialization.load_pem_private_key(block[0].encode(), password=None)
    except (UnsupportedAlgorithm, ValueError, TypeError):
        raise ValueError(not_pem) from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        raise ValueError("the issuer's key is neither an elliptic curve's nor RSA nor Ed25519")
    return key


def has_anchor_key(issuer: Issuer, anchors_pem: str) -> bool:
    """True if the issuer's key is that of a trust anchor, also in another certificate. Raises ValueError."""
    return any(is_key_of(issuer.private_key, anchor) for anchor in read_certificates(anchors_pem))


def read_anchors(config_map: Object) -> str:
    """Read `linkerd-identity-trust-roots`. Raises ValueError if it holds no certificate."""
    anchors = str((config_map.get("data") or {}).get("ca-bundle.crt") or "")
    try:
        read_certificates(anchors)
    except ValueError as problem:
        raise ValueError(f"ConfigMap linkerd-identity-trust-roots: {problem}") from None
    return anchors
