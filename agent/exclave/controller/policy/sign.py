"""A member's certificate: the controller decides its content, whatever the CSR requests. Pure."""

from datetime import datetime, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exclave.api.csr import MOST_COMMON_NAME, csr_sha256, read_csr
from exclave.api.group import LONGEST_CERTIFICATE
from exclave.api.identity import MeshIdentity
from exclave.api.issuer import Issuer
from exclave.api.member import MemberView
from exclave.controller.policy.snapshot import Signed
from exclave.kit.formats.x509 import not_before, pem_of

MOST_PER_KEY = 3  # certificates for one key. A machine makes a new key each time, but a crash may repeat a request.
BACKDATED = 10.0  # seconds before now at which validity starts, since clocks differ


def key_fault(view: MemberView) -> str | None:
    """The reason why the key of the Member's CSR is not certified again. Raises ValueError for a bad CSR."""
    key = read_csr(view.csr).key_sha256
    if sum(one.key_sha256 == key for one in view.issued) < MOST_PER_KEY:
        return None
    return f"csr: its key was certified {MOST_PER_KEY} times, and a renewal needs a new key"


def sign(
    csr_pem: str, member: str, identity: MeshIdentity, lifetime: float, issuer: Issuer, *, now: float, serial: int
) -> Signed:
    """Sign for `lifetime` seconds from `now`, or until the issuer's chain ends. Raises ValueError for a bad CSR."""
    csr = read_csr(csr_pem)
    begins = max(now - BACKDATED, not_before(issuer.certificate))
    ends = min(now + min(lifetime, LONGEST_CERTIFICATE), issuer.not_after)
    if ends <= now:
        raise ValueError("the issuer's certificate, or one above it, has expired")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member[:MOST_COMMON_NAME])]))
        .issuer_name(issuer.certificate.subject)
        .public_key(csr.public_key)
        .serial_number(serial)
        .not_valid_before(_time(begins))
        .not_valid_after(_time(ends))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(_names(identity), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private_key.public_key()), critical=False
        )
        .sign(issuer.private_key, hashes.SHA256())
    )
    chain = "".join(pem_of(one) for one in (certificate, *issuer.chain))
    return Signed(csr_sha256(csr_pem), chain, float(int(ends)), serial, csr.key_sha256)


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
