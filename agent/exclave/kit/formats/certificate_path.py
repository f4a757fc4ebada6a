"""Checks a path of certificates, from a leaf to a trust anchor, as linkerd2-proxy does. Pure.

linkerd2-proxy uses rustls-webpki 0.103 (src/verify_cert.rs, src/subject_name/mod.rs) with the algorithms of
linkerd/rustls/src/crypto.rs. Of a trust anchor it uses name, key and name constraints alone. Two rules are ours: an
anchor must be valid now, and a CA with a key usage must have keyCertSign. OpenSSL and Go require both.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from exclave.kit.formats.x509 import der_of, is_issued_by, not_after, not_before

MOST_ISSUERS = 6  # between leaf and anchor; rustls-webpki's MAX_SUB_CA_COUNT

# AlgorithmIdentifiers as DER; source: rustls-pki-types src/alg_id.rs. Others, such as RSA-PSS and SHA-1, are refused.
ECDSA_SHA512 = bytes.fromhex("300a06082a8648ce3d040304")
ECDSA = {bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300a06082a8648ce3d040303"), ECDSA_SHA512}
RSA_PKCS1 = {bytes.fromhex(f"300d06092a864886f70d0101{last}0500") for last in ("0b", "0c", "0d")}
ED25519 = {bytes.fromhex("300506032b6570")}
RSA_BITS = range(2048, 8193)

# Extensions that rustls-webpki accepts if they are critical: key usage, names, constraints, CRL distribution points.
UNDERSTOOD = {f"2.5.29.{last}" for last in (15, 17, 19, 30, 31, 37)}

PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)  # a proxy is both

T = TypeVar("T", bound=x509.ExtensionType)

_CONSTRAINT = re.compile(r"\.?(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+")


def paths_to_anchors(
    first: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> Iterator[tuple[x509.Certificate, ...]]:
    """All paths of signatures from a CA over some of `others` to an anchor, the last one. Only `first` if it is one.

    Nothing but names and signatures is checked.
    """
    ends = {der_of(anchor) for anchor in anchors}

    def paths(path: tuple[x509.Certificate, ...]) -> Iterator[tuple[x509.Certificate, ...]]:
        if der_of(path[-1]) in ends:
            yield path
            return
        yield from ((*path, anchor) for anchor in anchors if is_issued_by(path[-1], anchor))
        if len(path) <= MOST_ISSUERS:
            for one in others:
                if one not in path and is_issued_by(path[-1], one):
                    yield from paths((*path, one))

    return paths((first,))


def path_fault(
    leaves: Sequence[x509.Certificate], issuers: Sequence[x509.Certificate], now: float, *, has_ring: bool = False
) -> str | None:
    """Why proxies refuse this path, None if they accept it. `issuers`: CAs upwards, the anchor last; `leaves`: 0 or 1.

    `has_ring`: the proxies have ring as their library, which lacks P-521, and SHA-512 for ECDSA.
    """
    path = (*leaves, *issuers)
    if len(issuers) - 1 > MOST_ISSUERS:
        return f"there are more than {MOST_ISSUERS} certificates between it and the trust anchor"
    try:
        faults = (
            *(_validity_fault(one, now) for one in path),
            *(_extension_fault(one) for one in (*leaves, *issuers[:-1])),
            *(_authority_fault(one, depth) for depth, one in enumerate(issuers[:-1])),
            *(_purpose_fault(one) for one in (*leaves, *issuers[:-1])),
            *(_signature_fault(below, above, has_ring=has_ring) for below, above in pairwise(path)),
            *(_constraint_fault(one, path[: path.index(one)]) for one in issuers),
        )
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as problem:
        # cryptography reads extensions lazily, and raises various types.
        return f"an extension cannot be read ({type(problem).__name__})"
    return next((fault for fault in faults if fault is not None), None)


def title(certificate: x509.Certificate) -> str:
    """A certificate's subject as a person reads it, shortened."""
    return repr(certificate.subject.rfc4514_string()[:100])


def _validity_fault(certificate: x509.Certificate, now: float) -> str | None:
    if now < not_before(certificate):
        return f"{title(certificate)} is not valid yet"
    return f"{title(certificate)} has expired" if now >= not_after(certificate) else None


def _extension_fault(certificate: x509.Certificate) -> str | None:
    for one in certificate.extensions:
        if one.critical and one.oid.dotted_string not in UNDERSTOOD:
            shown = one.oid.dotted_string
            return f"{title(certificate)} has the critical extension {shown}, which proxies do not understand"
    return None


def _authority_fault(certificate: x509.Certificate, below: int) -> str | None:
    """`below`: the number of CAs between this one and the leaf."""
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return f"{title(certificate)} is no CA's"
    if constraints.path_length is not None and constraints.path_length < below:
        return (
            f"{title(certificate)} allows {constraints.path_length} CAs below it, and there are {below} (path length)"
        )
    usage = extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return f"{title(certificate)} may not sign certificates (key usage)"
    return None


def _purpose_fault(certificate: x509.Certificate) -> str | None:
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or all(one in purposes for one in PURPOSES):
        return None
    return f"{title(certificate)} is not for both TLS servers and TLS clients (extended key usage)"


def _signature_fault(certificate: x509.Certificate, issuer: x509.Certificate, *, has_ring: bool) -> str | None:
    if not is_issued_by(certificate, issuer):
        return f"{title(certificate)} is not signed by {title(issuer)}"
    algorithm = _algorithm_of(certificate)
    key = issuer.public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    is_accepted = spki in der_of(issuer)  # else the key has another form, such as a compressed point
    if isinstance(key, ec.EllipticCurvePublicKey):
        curves = (ec.SECP256R1, ec.SECP384R1) if has_ring else (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
        is_accepted &= isinstance(key.curve, curves) and algorithm in ECDSA
        is_accepted &= not (has_ring and algorithm == ECDSA_SHA512)
        kind = f"ECDSA with curve {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        is_accepted &= key.key_size in RSA_BITS and algorithm in RSA_PKCS1
        kind = f"RSA with {key.key_size} bits"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        is_accepted &= algorithm in ED25519
        kind = "Ed25519"
    else:
        is_accepted, kind = False, type(key).__name__
    if is_accepted:
        return None
    digest = certificate.signature_hash_algorithm
    shown = f"{kind} and {digest.name}" if digest is not None else kind
    return f"{title(certificate)} is signed by {shown}, in a form that {'these' if has_ring else 'all'} proxies refuse"


def _algorithm_of(certificate: x509.Certificate) -> bytes:
    """The DER of the signature's AlgorithmIdentifier, which follows the signed part."""
    der, signed = der_of(certificate), certificate.tbs_certificate_bytes
    rest = der[der.index(signed) + len(signed) :]
    return rest[: 2 + rest[1]]


def _constraint_fault(issuer: x509.Certificate, below: Iterable[x509.Certificate]) -> str | None:
    for certificate in below:
        names = extension(certificate, x509.SubjectAlternativeName)
        # Every certificate has a subject, to which constraints of directory names apply.
        fault = name_fault((issuer,), (*(names or ()), x509.DirectoryName(certificate.subject)))
        if fault is not None:
            return fault
    return None


def name_fault(issuers: Iterable[x509.Certificate], names: Iterable[x509.GeneralName]) -> str | None:
    """Which of these names a certificate below the issuers may not have by their name constraints, None if all."""
    listed = list(names)
    for issuer in issuers:
        constraints = extension(issuer, x509.NameConstraints)
        if constraints is None:
            continue
        permitted, excluded = constraints.permitted_subtrees or (), constraints.excluded_subtrees or ()
        for name in listed:
            asked = [one for one in permitted if type(one) is type(name)]
            if asked and not any(_is_within(name, one, is_excluded=False) for one in asked):
                return f"{title(issuer)} does not permit the name {_shown(name)} (name constraints)"
            if any(type(one) is type(name) and _is_within(name, one, is_excluded=True) for one in excluded):
                return f"{title(issuer)} excludes the name {_shown(name)} (name constraints)"
    return None


def _is_within(name: x509.GeneralName, constraint: x509.GeneralName, *, is_excluded: bool) -> bool:
    """True if a name lies in a subtree. rustls-webpki refuses kinds that it cannot compare: URIs, subjects, mail."""
    if isinstance(name, x509.DNSName) and isinstance(constraint, x509.DNSName):
        found, base = name.value.lower(), constraint.value.lower()
        if base and not _CONSTRAINT.fullmatch(base):
            return is_excluded
        return not base or found == base or found.endswith(base if base.startswith(".") else f".{base}")
    if isinstance(name, x509.IPAddress) and isinstance(constraint, x509.IPAddress):
        return ip_address(str(name.value)) in ip_network(str(constraint.value))
    return is_excluded


def _shown(name: x509.GeneralName) -> str:
    if isinstance(name, x509.DirectoryName):
        return repr(name.value.rfc4514_string()[:100])
    return repr(str(name.value)[:300])


def extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    """The content of its extension of this type, None without one."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
