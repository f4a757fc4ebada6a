"""A member's certificate: the controller decides its content, whatever the CSR requests. Pure."""

from exclave.api.csr import MOST_COMMON_NAME, csr_sha256, read_csr
from exclave.api.group import LONGEST_CERTIFICATE
from exclave.api.identity import MeshIdentity
from exclave.api.issuer import BACKDATED, Issuer, leaf_fault, make_leaf
from exclave.api.member import MemberView
from exclave.controller.policy.snapshot import Signed
from exclave.kit.formats.x509 import not_before, pem_of

MOST_PER_KEY = 3  # certificates for one key. A machine makes a new key each time, but a crash may repeat a request.


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
    leaf = make_leaf(issuer, csr.public_key, member[:MOST_COMMON_NAME], identity, begins, ends, serial=serial)
    if (fault := leaf_fault(issuer, leaf, now)) is not None:
        raise ValueError(f"proxies would refuse the certificate: {fault}")
    chain = "".join(pem_of(one) for one in (leaf, *issuer.chain))
    return Signed(csr_sha256(csr_pem), chain, float(int(ends)), serial, csr.key_sha256)
