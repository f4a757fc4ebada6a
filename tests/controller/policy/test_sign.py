"""The content of a certificate, whatever its CSR asks for. The machine's own check accepts it."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.csr import csr_sha256, key_sha256, make_csr
from exclave.api.issuer import Issuer
from exclave.api.member import Issued, MemberView
from exclave.controller.policy.sign import key_fault, sign
from exclave.controller.policy.snapshot import Signed
from exclave.identity.svid import check_svid
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import not_after, not_before, pem_of, read_certificates
from support.certificates import ANCHOR_KEY, IDENTITY, ISSUER_KEY, KEY, NOW, ca, certify, make_anchor, make_issuer, name

ANCHOR = make_anchor()
ISSUER = Issuer((make_issuer(valid=(-3600, 86400)),), ISSUER_KEY)
CSR = make_csr(KEY, "web-k7q2x-1")


def signed(csr: str = CSR, lifetime: float = 600.0, issuer: Issuer = ISSUER, member: str = "web-k7q2x-1") -> Signed:
    return sign(csr, member, IDENTITY, lifetime, issuer, now=NOW, serial=0x7A)


def leaf_of(found: Signed) -> x509.Certificate:
    return read_certificates(found.chain)[0]


def test_the_machine_accepts_what_the_controller_signs() -> None:
    found = signed()
    svid = check_svid(found.chain, KEY, pem_of(ANCHOR), IDENTITY, NOW)
    assert (svid.serial, svid.not_after, svid.issuer_sha256) == (0x7A, NOW + 600, ISSUER.sha256)
    assert found == Signed(csr_sha256(CSR), found.chain, NOW + 600.0, 0x7A, key_sha256(KEY.public_key()))


def test_so_it_does_from_an_rsa_issuer() -> None:
    key = rsa.generate_private_key(65537, 2048)
    issuer = Issuer((certify("issuer", key, "root", ANCHOR_KEY, ca()),), key)
    assert check_svid(signed(issuer=issuer).chain, KEY, pem_of(ANCHOR), IDENTITY, NOW)


def test_names_and_rights_that_a_csr_asks_for_are_not_granted() -> None:
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name("admin"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("kubernetes.default.svc")]), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    leaf = leaf_of(signed(request.public_bytes(serialization.Encoding.PEM).decode()))
    assert leaf.subject == name("web-k7q2x-1")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [one.value for one in names] == [IDENTITY.dns_name, IDENTITY.spiffe_id]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_name_longer_than_a_subject_may_be_is_cut() -> None:
    assert leaf_of(signed(member="w" * 70 + "-k7q2x-1")).subject == name("w" * 64)


def test_it_is_back_dated_a_little_but_not_before_its_issuer() -> None:
    assert not_before(leaf_of(signed())) == NOW - 10
    young = Issuer((make_issuer(valid=(-4, 3600)),), ISSUER_KEY)
    assert not_before(leaf_of(signed(issuer=young))) == NOW - 4


@given(st.floats(10, 7 * 86400))
def test_it_is_valid_as_long_as_the_group_wants_but_no_longer_than_its_issuer(lifetime: float) -> None:
    found = signed(lifetime=lifetime)
    assert found.not_after == not_after(leaf_of(found)) == int(min(NOW + lifetime, NOW + 86400))


def test_it_is_valid_for_thirty_days_at_most() -> None:
    lasting = Issuer((make_issuer(valid=(-4, 400 * 86400)),), ISSUER_KEY)
    assert signed(lifetime=365 * 86400.0, issuer=lasting).not_after == NOW + 30 * 86400


def issued(*ages: float, key: str = "another") -> MemberView:
    """A Member with certificates that were signed so many seconds ago."""
    return MemberView("web-k7q2x-1", csr=CSR, issued=tuple(Issued("7a", key, rfc3339(NOW - age)) for age in ages))


def test_one_key_is_certified_three_times_at_most() -> None:
    own = key_sha256(KEY.public_key())
    assert key_fault(issued(1, 2, key=own)) is None
    assert key_fault(issued(1, 2, 3, key=own)) == ("csr: its key was certified 3 times, and a renewal needs a new key")
    assert key_fault(issued(1, 2, 3, 4, 5)) is None


@pytest.mark.parametrize(
    ("csr", "issuer", "text"),
    [
        pytest.param("", ISSUER, "csr: a PEM request was expected: ValueError", id="a CSR that is none"),
        pytest.param(
            CSR,
            Issuer((make_issuer(valid=(-99, 0)),), ISSUER_KEY),
            "the issuer's certificate, or one above it, has expired",
            id="an issuer that ends now",
        ),
    ],
)
def test_what_is_not_signed(csr: str, issuer: Issuer, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        signed(csr, issuer=issuer)
    assert str(refused.value) == text
