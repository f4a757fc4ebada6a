"""Issuers and trust anchors as people make them, good and bad: what ours accepts, and what OpenSSL does.

Each row states what is unusual. Rows are judged in tests/api (ours) and in
tests/peers (rustls-webpki with both of linkerd2-proxy's libraries, and OpenSSL).
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from ipaddress import ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from exclave.kit.formats.x509 import der_of, not_after, not_before, pem_of
from support.certificates import (
    ANCHOR_KEY,
    IDENTITY,
    ISSUER_KEY,
    OTHER_KEY,
    TLS_BOTH,
    PrivateKey,
    ca,
    certify,
    make_anchor,
    make_issuer,
    usage,
)

RING, AWS_LC = "stable-2.18.4", "edge-26.8.1"
"""A version of Linkerd whose proxies have ring, and one whose proxies have aws-lc."""

Extensions = Sequence[x509.ExtensionType]


@dataclass(frozen=True)
class Row:
    """An issuer's Secret and a bundle of anchors. `fault`: a part of our reason to refuse it; "" if it is accepted.

    `stricter`: why we refuse what linkerd2-proxy accepts. `openssl`: why OpenSSL decides otherwise than we do.
    """

    certificates: str
    anchors: str
    fault: str = ""
    key: PrivateKey = ISSUER_KEY
    issuer: x509.Certificate = field(default_factory=lambda: ISSUER)  # the certificate of the key
    version: str = AWS_LC
    stricter: str = ""
    openssl: str = ""

    @property
    def secret(self) -> dict[str, Any]:
        """The Secret."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        found = {"tls.crt": self.certificates.encode(), "tls.key": key}
        return {"data": {name: base64.b64encode(content).decode() for name, content in found.items()}}


ANCHOR, ISSUER = make_anchor(), make_issuer()
MIDDLE_KEY, STRANGER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
STRANGER = certify("stranger", STRANGER_KEY, "stranger", STRANGER_KEY, ca(1))


def text(*certificates: x509.Certificate) -> str:
    """Certificates as PEM."""
    return "".join(map(pem_of, certificates))


@cache
def key_of(kind: str) -> Any:
    """A key of this kind, such as `P-521` or `RSA-2048`."""
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    curves = {"P-384": ec.SECP384R1, "P-521": ec.SECP521R1, "secp256k1": ec.SECP256K1}
    return ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else ec.generate_private_key(curves[kind]())


def below(*extensions: x509.ExtensionType, **options: Any) -> Row:
    """An issuer with more extensions below the usual anchor."""
    issuer = make_issuer(extensions=(*ca(), *extensions))
    return Row(text(issuer), text(ANCHOR), issuer=issuer, **options)


def rooted(*extensions: x509.ExtensionType, valid: tuple[int, int] = (-10, 3600), **options: Any) -> Row:
    """The usual issuer below an anchor with exactly these extensions."""
    return Row(text(ISSUER), text(certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, extensions, valid)), **options)


def between(*extensions: x509.ExtensionType, own: Extensions | None = None, **options: Any) -> Row:
    """An issuer below an intermediate with exactly these extensions."""
    middle = certify("middle", MIDDLE_KEY, "root", ANCHOR_KEY, extensions)
    issuer = certify("issuer", ISSUER_KEY, "middle", MIDDLE_KEY, ca() if own is None else own)
    return Row(text(issuer, middle), text(certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, ca(None))),
               issuer=issuer, **options)  # fmt: skip


def of_kind(anchor: str, issuer: str = "", algorithm: bytes = b"", sign: Any = None, **options: Any) -> Row:
    """Anchor and issuer with keys of these kinds; `sign` makes the issuer's signature in another form."""
    root_key = key_of(anchor)
    key = key_of(issuer) if issuer else ISSUER_KEY
    root = certify("root", root_key, "root", root_key, ca(1))
    found = certify("issuer", key, "root", root_key, ca())
    if sign is not None:
        found = signed_again(found, algorithm, sign)
    return Row(text(found), text(root), issuer=found, key=key, **options)


def signed_again(certificate: x509.Certificate, algorithm: bytes, sign: Callable[[bytes], bytes]) -> x509.Certificate:
    """The certificate with another AlgorithmIdentifier (DER) and signature, which the library may not make."""
    der, signed = der_of(certificate), certificate.tbs_certificate_bytes
    rest = der[der.index(signed) + len(signed) :]
    former = rest[: 2 + rest[1]]
    header = 2 + (signed[1] & 0x7F if signed[1] & 0x80 else 0)
    again = sequence(signed[header:].replace(former, algorithm, 1))
    signature = sign(again)
    return x509.load_der_x509_certificate(sequence(again + algorithm + der_value(0x03, b"\0" + signature)))


def with_extension(
    certificate: x509.Certificate, extension: x509.ExtensionType, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """The certificate signed anew, with one more extension."""
    begins, ends = (datetime.fromtimestamp(at(certificate), timezone.utc) for at in (not_before, not_after))
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for one in certificate.extensions:
        builder = builder.add_extension(one.value, one.critical)
    return builder.add_extension(extension, critical=True).sign(key, hashes.SHA256())


def sequence(content: bytes) -> bytes:
    """A SEQUENCE as DER."""
    return der_value(0x30, content)


def der_value(tag: int, content: bytes) -> bytes:
    """A value as DER."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


ECDSA_SHA512 = bytes.fromhex("300a06082a8648ce3d040304")
RSA_SHA1 = bytes.fromhex("300d06092a864886f70d0101050500")
RSA_SHA256_BARE = bytes.fromhex("300b06092a864886f70d01010b")
RSA_PSS_SHA256 = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
)


def rsa_signature(hashed: Any, scheme: Any = None) -> Callable[[bytes], bytes]:
    """Signs with the anchor's RSA key."""
    return lambda content: bytes(key_of("RSA-2048").sign(content, scheme or padding.PKCS1v15(), hashed))


def permits(*names: x509.GeneralName) -> x509.NameConstraints:
    """Name constraints that permit these subtrees."""
    return x509.NameConstraints(list(names), None)


def excludes(*names: x509.GeneralName) -> x509.NameConstraints:
    """Name constraints that exclude these subtrees."""
    return x509.NameConstraints(None, list(names))


def dns(value: str) -> x509.DNSName:
    """A DNS name."""
    return x509.DNSName(value)


def ladder(count: int) -> Row:
    """An issuer with so many certificates between it and the anchor."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(count)]
    names, above = [f"middle {number}" for number in range(count)], [("root", ANCHOR_KEY)]
    chain = []
    for name, key in zip(names, keys, strict=True):
        chain.append(certify(name, key, *above[-1], ca(None)))
        above.append((name, key))
    issuer = certify("issuer", ISSUER_KEY, *above[-1], ca())
    return Row(
        text(issuer, *reversed(chain)), text(certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, ca(None))), issuer=issuer
    )


def deeper(row: Row, fault: str, openssl: str = "") -> Row:
    """The row with a fault."""
    return Row(row.certificates, row.anchors, fault, row.key, row.issuer, row.version, row.stricter, openssl)


def subject(value: str) -> x509.DirectoryName:
    """A directory name."""
    return x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, value)]))


UNKNOWN = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
EKU = x509.ExtendedKeyUsage
SERVER, CLIENT = TLS_BOTH
MESH, ZONE = IDENTITY.dns_name, "identity.linkerd.cluster.local"
NO_URI = "rustls-webpki cannot compare URIs, and refuses all"
MARK = "OpenSSL reads the anchor; linkerd2-proxy and Go do not"
WEAK = "OpenSSL checks no algorithms here"
ROOT_TOO = "OpenSSL applies it to the anchor, too; linkerd2-proxy does not"


def without_group(namespace: str) -> x509.Certificate:
    """An issuer that may not certify the groups of a namespace."""
    return make_issuer(extensions=(*ca(), excludes(dns(f"{namespace}.serviceaccount.{ZONE}"))))


CRITICAL = with_extension(ISSUER, x509.UnrecognizedExtension(UNKNOWN, b"\x05\x00"), ANCHOR_KEY)
EXPIRED_ROOT = certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, ca(1), (-99, -1))
OLD_ROOT = certify("old", OTHER_KEY, "old", OTHER_KEY, ca(1), (-99, -1))
CROSS = certify("root", ANCHOR_KEY, "old", OTHER_KEY, ca(1))  # the new root, signed by the old one
MIDDLE = certify("middle", MIDDLE_KEY, "root", ANCHOR_KEY, ca(None))
UNDER = certify("issuer", ISSUER_KEY, "middle", MIDDLE_KEY, ca())
WIDE = certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, ca(None))
LATER_ISSUER = make_issuer(valid=(9, 99))
EXPIRED_ISSUER = make_issuer(valid=(-99, -1))
COMMENT = "subject=CN = issuer\nissuer=CN = root\n"

ROWS: dict[str, Row] = {
    "the usual pair": Row(text(ISSUER), text(ANCHOR)),
    "the anchor in the Secret, too": Row(text(ISSUER, ANCHOR), text(ANCHOR)),
    "certificates in the wrong order": Row(text(MIDDLE, UNDER), text(WIDE), issuer=UNDER),
    "unrelated certificates in the Secret": Row(text(STRANGER, ISSUER, MIDDLE), text(ANCHOR)),
    "the former certificate of the same key first": Row(text(EXPIRED_ISSUER, ISSUER), text(ANCHOR)),
    "the intermediate is missing": Row(text(UNDER), text(WIDE), "does not lead to the trust anchors", issuer=UNDER),
    "a Secret with CRLF": Row(text(ISSUER).replace("\n", "\r\n"), text(ANCHOR)),
    "a Secret with a byte order mark and spaces before lines": Row(
        "\ufeff" + text(ISSUER).replace("\n", "\n  "), text(ANCHOR)
    ),
    "a Secret with comments": Row(COMMENT + text(ISSUER) + "# the end", text(ANCHOR)),
    "anchors with CRLF": Row(text(ISSUER), text(ANCHOR).replace("\n", "\r\n")),
    "anchors with comments": Row(text(ISSUER), COMMENT + text(ANCHOR) + "\n# the next\n" + text(STRANGER)),
    "a byte order mark before the only anchor": Row(
        text(ISSUER), "\ufeff" + text(ANCHOR), "a certificate in PEM was expected, found none",
        openssl=MARK,
    ),
    "a byte order mark before another anchor": Row(text(ISSUER), "\ufeff" + text(STRANGER, ANCHOR)),
    "a damaged anchor beside the good one": Row(
        text(ISSUER), text(ANCHOR) + "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n",
        "one that is damaged",
        openssl="OpenSSL reads on",
    ),
    "several anchors": Row(text(ISSUER), text(STRANGER, ANCHOR)),
    "another mesh's anchors": Row(text(ISSUER), text(STRANGER), "does not lead to the trust anchors"),
    "an expired anchor beside the good one": Row(text(ISSUER), text(OLD_ROOT, ANCHOR)),
    "an expired anchor of the same name and key": Row(text(ISSUER), text(EXPIRED_ROOT, ANCHOR)),
    "an expired anchor alone": Row(
        text(ISSUER), text(EXPIRED_ROOT), "'CN=root' has expired", stricter="agents, OpenSSL and Go refuse it"
    ),
    "a cross-signed root that is an anchor, too": Row(text(ISSUER, CROSS), text(ANCHOR, OLD_ROOT)),
    "the anchor itself as the issuer": Row(text(ANCHOR), text(ANCHOR), key=ANCHOR_KEY, issuer=ANCHOR),
    "an issuer that is listed as an anchor": Row(text(ISSUER), text(ISSUER)),
    "an expired issuer": Row(text(EXPIRED_ISSUER), text(ANCHOR), "'CN=issuer' has expired", issuer=EXPIRED_ISSUER),
    "an issuer of tomorrow": Row(
        text(LATER_ISSUER), text(ANCHOR), "'CN=issuer' is not valid yet", issuer=LATER_ISSUER
    ),
    "six certificates between": ladder(5),
    "seven certificates between": deeper(ladder(6), "more than 6 certificates", "OpenSSL allows 100"),
    "no basic constraints": between(usage(key_cert_sign=True), fault="'CN=middle' is no CA's"),
    "no CA": between(x509.BasicConstraints(False, None), fault="'CN=middle' is no CA's"),
    "a path length that is too short": between(*ca(0), fault="'CN=middle' allows 0 CAs below it, and there are 1"),
    "a path length that fits": between(*ca(1)),
    "an anchor with a path length that is too short": Row(
        between(*ca(1)).certificates, text(certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, ca(0))), openssl=ROOT_TOO
    ),
    "key usage without keyCertSign": between(
        *ca(1, signs=False), fault="'CN=middle' may not sign certificates", stricter="agents, OpenSSL and Go refuse it"
    ),
    "no key usage": between(x509.BasicConstraints(True, None)),
    "an intermediate for TLS servers only": between(*ca(1), EKU([SERVER]), fault="not for both TLS servers and TLS"),
    "an intermediate for TLS clients only": between(*ca(1), EKU([CLIENT]), fault="not for both TLS servers and TLS"),
    "an intermediate for both": between(*ca(1), EKU([SERVER, CLIENT])),
    "an intermediate for any purpose": between(
        *ca(1), EKU([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), fault="not for both TLS servers and TLS clients"
    ),
    "an issuer for signing code": below(
        EKU([ExtendedKeyUsageOID.CODE_SIGNING]), fault="not for both TLS servers and TLS clients"
    ),
    "an anchor for TLS clients only": rooted(*ca(1), EKU([CLIENT]), openssl=ROOT_TOO),
    "an unknown extension that is critical": Row(
        text(CRITICAL), text(ANCHOR), "the critical extension 1.3.6.1.4.1.55555.1", issuer=CRITICAL
    ),
    "names that are permitted": below(permits(dns("cluster.local"))),
    "names that are permitted, with a leading dot": below(permits(dns(f".{ZONE}"))),
    "names of another mesh": below(permits(dns("example.org")), fault="does not permit the name"),
    "a name that only ends alike": below(permits(dns("ster.local")), fault="does not permit the name"),
    "names that are excluded": below(excludes(dns("CLUSTER.local")), fault="excludes the name"),
    "names that are excluded elsewhere": below(excludes(dns("kube-system.svc.cluster.local"))),
    "a constraint of DNS names that is none": below(
        permits(dns("cluster.local.")), fault="does not permit the name"
    ),
    "an anchor that permits another mesh's names": rooted(*ca(1), permits(dns("example.org")), fault="does not permit"),
    "an anchor that permits the mesh's names": rooted(*ca(1), permits(dns("cluster.local"))),
    "a constraint of URIs that fits": below(
        permits(x509.UniformResourceIdentifier("cluster.local")), fault="does not permit the name", openssl=NO_URI
    ),
    "a constraint of addresses": below(permits(x509.IPAddress(ip_network("10.0.0.0/8")))),
    "a constraint of mail addresses": below(permits(x509.RFC822Name("example.org"))),
    "a constraint of subjects": below(permits(subject("sample")), fault="does not permit the name"),
    "P-384": of_kind("P-384", "P-384"),
    "P-521": of_kind("P-521", "P-521"),
    "P-521, with ring": of_kind("P-521", fault="ECDSA with curve secp521r1", version=RING, openssl=WEAK),
    "ECDSA with SHA-512": of_kind(
        "P-384", algorithm=ECDSA_SHA512, sign=lambda content: key_of("P-384").sign(content, ec.ECDSA(hashes.SHA512()))
    ),
    "ECDSA with SHA-512, with ring": of_kind(
        "P-384", algorithm=ECDSA_SHA512, sign=lambda content: key_of("P-384").sign(content, ec.ECDSA(hashes.SHA512())),
        fault="ECDSA with curve secp384r1 and sha512", version=RING, openssl=WEAK,
    ),
    "another curve": of_kind("secp256k1", fault="ECDSA with curve secp256k1", openssl=WEAK),
    "Ed25519": of_kind("Ed25519", "Ed25519"),
    "RSA with 2048 bits": of_kind("RSA-2048", "RSA-2048"),
    "RSA with 1024 bits": of_kind("RSA-1024", fault="RSA with 1024 bits", openssl=WEAK),
    "RSA with 1024 bits in the issuer": of_kind("RSA-2048", "RSA-1024", fault="RSA with 1024 bits", openssl=WEAK),
    "RSA with SHA-1": of_kind(
        "RSA-2048", algorithm=RSA_SHA1, sign=rsa_signature(hashes.SHA1()), fault="RSA with 2048 bits", openssl=WEAK
    ),
    "RSA-PSS": of_kind(
        "RSA-2048", algorithm=RSA_PSS_SHA256, fault="does not lead to the trust anchors", openssl=WEAK,
        sign=rsa_signature(hashes.SHA256(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)),
    ),
    "RSA without the parameters of its algorithm": of_kind(
        "RSA-2048", algorithm=RSA_SHA256_BARE, sign=rsa_signature(hashes.SHA256()), fault="RSA with 2048 bits",
        openssl=WEAK,
    ),
}  # fmt: skip
