"""Checks a certificate as linkerd2-proxy and its peers would, before the proxy uses it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from exclave.api.identity import MeshIdentity
from exclave.kit.formats.x509 import (
    der_of,
    fingerprint,
    is_authority,
    is_issued_by,
    is_key_of,
    not_after,
    not_before,
    read_blocks,
    read_certificates,
)
from exclave.kit.tasks.backoff import Backoff

# Shares of a certificate's life between which its renewal is drawn, once: with a new draw at every check the lowest
# would win, and a fleet would renew at the same time.
BACKDATED = 11.0  # seconds: the controller lets validity begin 10 s before the signature, in whole seconds
EARLIEST, LATEST = 0.50, 0.65

ISSUER_SPREAD = 600.0  # seconds over which a fleet renews after a new issuer; at most a tenth of a certificate's life

FIRST_RETRIES = Backoff(first=1.0, most=60.0)  # without a certificate; each attempt may cost a signature


class SvidError(ValueError):
    """A certificate that the proxy or its peers would refuse; the text says why."""


@dataclass(frozen=True)
class Svid:
    """A checked certificate. `chain` is DER, leaf first, without the anchor; `key` PKCS#8 DER; times epoch seconds.

    `issuer_sha256`: sha256 (hex) of the DER of the certificate that signed the leaf.
    """

    spiffe_id: str
    dns_name: str
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    not_before: float
    not_after: float
    serial: int
    issuer_sha256: str


def check_svid(
    chain_pem: str, key: ec.EllipticCurvePrivateKey, anchors_pem: str, identity: MeshIdentity, now: float
) -> Svid:
    """Check a chain (PEM, leaf first) and its key against the mesh's anchors. Raises SvidError with the reason."""
    try:
        return _check(chain_pem, key, anchors_pem, identity, now)
    except SvidError:
        raise
    except ValueError as problem:
        raise SvidError(str(problem)) from None
    except Exception as problem:  # cryptography reads lazily, and raises various types
        raise SvidError(f"a certificate of the chain cannot be read: {type(problem).__name__}") from None


def _check(
    chain_pem: str, key: ec.EllipticCurvePrivateKey, anchors_pem: str, identity: MeshIdentity, now: float
) -> Svid:
    chain, anchors = read_certificates(chain_pem), read_certificates(anchors_pem)
    received = read_blocks(chain_pem)
    # The proxy encodes the chain again, which must result in the same bytes.
    if received != tuple(der_of(certificate) for certificate in chain):
        raise SvidError("a certificate of the chain does not encode to the same bytes again")
    leaf, *intermediates = chain
    _check_leaf(leaf, key, identity)
    issuer = _check_path(leaf, intermediates, anchors, now)
    return Svid(
        spiffe_id=identity.spiffe_id,
        dns_name=identity.dns_name,
        chain=tuple(der_of(certificate) for certificate in chain),
        key=key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        not_before=not_before(leaf),
        not_after=min(not_after(certificate) for certificate in chain),
        serial=leaf.serial_number,
        issuer_sha256=fingerprint(issuer),
    )


def _check_leaf(leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey, identity: MeshIdentity) -> None:
    if not list(leaf.subject):
        raise SvidError("the subject is empty, which the proxy's parser refuses")
    if not is_key_of(key, leaf):
        raise SvidError("the certificate is not for our key")
    expected = [x509.DNSName(identity.dns_name), x509.UniformResourceIdentifier(identity.spiffe_id)]
    found = _names(leaf)
    if found != expected:
        shown = ", ".join(str(name.value) for name in found) or "none"
        wanted = f"{identity.dns_name}, {identity.spiffe_id}"
        raise SvidError(f"the names {wanted} were expected in this order, found {shown}")
    if is_authority(leaf):
        raise SvidError("the certificate is that of a CA; a leaf was expected")
    _check_usage(leaf)


def _check_usage(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature:
            raise SvidError("key usage digitalSignature is missing")
    except x509.ExtensionNotFound:
        pass  # without it every usage is allowed
    try:
        purposes = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return
    for purpose, name in ((ExtendedKeyUsageOID.SERVER_AUTH, "server"), (ExtendedKeyUsageOID.CLIENT_AUTH, "client")):
        if purpose not in purposes:
            raise SvidError(f"extended key usage for a TLS {name} is missing")


def _check_path(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: float
) -> x509.Certificate:
    """Follow the chain to an anchor; returns the certificate that signed the leaf."""
    current, first_issuer = leaf, None
    _check_time(leaf, "the certificate", now)
    for depth, issuer in enumerate(intermediates):
        if not is_issued_by(current, issuer):
            raise SvidError(f"certificate {depth + 1} of the chain is not signed by the one after it")
        _check_issuer(issuer, depth, now)
        current, first_issuer = issuer, first_issuer or issuer
    for anchor in anchors:
        if der_of(anchor) == der_of(current) and first_issuer is not None:
            return first_issuer
        if is_issued_by(current, anchor) and not_before(anchor) <= now < not_after(anchor):
            return first_issuer or anchor
    raise SvidError("the chain does not lead to a trust anchor of the mesh that is valid")


def _check_issuer(issuer: x509.Certificate, depth: int, now: float) -> None:
    _check_time(issuer, "an issuer in the chain", now)
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise SvidError("an issuer in the chain is not a CA") from None
    if not constraints.ca:
        raise SvidError("an issuer in the chain is not a CA")
    if constraints.path_length is not None and constraints.path_length < depth:
        raise SvidError("an issuer in the chain may not have another below it (path length)")
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return  # without it every usage is allowed
    if not usage.key_cert_sign:
        raise SvidError("an issuer in the chain may not sign certificates (key usage)")


def _check_time(certificate: x509.Certificate, what: str, now: float) -> None:
    if now < not_before(certificate):
        raise SvidError(f"{what} is valid only {not_before(certificate) - now:.0f} s from now: do the clocks agree?")
    if now >= not_after(certificate):
        raise SvidError(f"{what} expired {now - not_after(certificate):.0f} s ago")


def _names(leaf: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


@dataclass(frozen=True)
class StoredSvid:
    """A certificate with the times that were set at its arrival, in epoch seconds."""

    svid: Svid
    received: float
    renew_at: float


def renew_at(received: float, not_after: float, draw: float) -> float:
    """The time to renew a certificate that arrived at `received`, with `draw` in [0, 1)."""
    # Not from notBefore, which is earlier than the signature.
    life = max(0.0, not_after - received)
    return received + life * (EARLIEST + (LATEST - EARLIEST) * draw)


def renew_after_issuer_change(stored: StoredSvid, now: float, draw: float) -> float:
    """The time to renew after the mesh's issuer has changed: soon, spread over the fleet, never later than planned."""
    spread = min(ISSUER_SPREAD, 0.1 * max(0.0, stored.svid.not_after - stored.received))
    return min(stored.renew_at, now + spread * draw)


def outlives(svid: Svid, lifetime: float) -> bool:
    """True if a certificate was signed for longer than `lifetime`, which is its group's now (seconds)."""
    return svid.not_after - svid.not_before > lifetime + BACKDATED


def retries(not_after: float, received: float) -> Backoff:
    """Pauses between failed renewals: at most five minutes, shorter for certificates with a short life."""
    life = max(1.0, not_after - received)
    return Backoff(first=min(5.0, life / 40), most=min(300.0, life / 10))
