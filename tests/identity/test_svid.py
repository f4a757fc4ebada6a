"""Which certificates are accepted, and when they are renewed."""

import base64
from collections.abc import Sequence
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from exclave.identity.svid import (
    FIRST_RETRIES,
    ISSUER_SPREAD,
    StoredSvid,
    Svid,
    SvidError,
    check_svid,
    renew_after_issuer_change,
    renew_at,
    retries,
)
from exclave.kit.formats.x509 import der_of, fingerprint, pem_of
from support.certificates import (
    ANCHOR_KEY,
    IDENTITY,
    ISSUER_KEY,
    KEY,
    NOW,
    OTHER_KEY,
    SANS,
    ca,
    certify,
    make_anchor,
    make_issuer,
    make_leaf,
    usage,
)

ANCHOR, ISSUER, LEAF = make_anchor(), make_issuer(), make_leaf()
WANTED = "web.shop.serviceaccount.identity.linkerd.cluster.local, spiffe://cluster.local/ns/shop/sa/web"
DNS, URI = SANS


def check(*chain: x509.Certificate, anchors: Sequence[x509.Certificate] = (ANCHOR,), now: float = NOW) -> Svid:
    return check_svid("".join(map(pem_of, chain)), KEY, "".join(map(pem_of, anchors)), IDENTITY, now)


def test_a_certificate_as_the_controller_signs_it_passes_and_is_described() -> None:
    svid = check(LEAF, ISSUER)
    assert (svid.dns_name, svid.spiffe_id) == (IDENTITY.dns_name, IDENTITY.spiffe_id)
    assert svid.chain == (der_of(LEAF), der_of(ISSUER))
    assert serialization.load_der_private_key(svid.key, None).private_numbers() == KEY.private_numbers()  # type: ignore[union-attr]
    assert (svid.not_before, svid.not_after, svid.serial) == (NOW - 10, NOW + 3600, 0x7A)
    assert svid.issuer_sha256 == fingerprint(ISSUER)
    assert str(svid.key) not in repr(svid)


@cache
def deep() -> list[x509.Certificate]:
    """leaf ← issuer ← middle ← anchor, where the middle may have one below it."""
    middle = certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(1))
    return [LEAF, certify("issuer", ISSUER_KEY, "middle", OTHER_KEY, ca(0)), middle]


@pytest.mark.parametrize(
    ("chain", "anchors", "issuer"),
    [
        pytest.param(deep(), [ANCHOR], 1, id="two intermediates"),
        pytest.param([LEAF, ISSUER, ANCHOR], [ANCHOR], 1, id="the anchor sent along"),
        pytest.param([LEAF, ISSUER], [ISSUER], 1, id="an issuer that is itself an anchor"),
        pytest.param(
            [LEAF, ISSUER],
            [certify("old", OTHER_KEY, "old", OTHER_KEY, ca(1)), ANCHOR],
            1,
            id="two anchors, while they are rotated",
        ),
        pytest.param(
            [LEAF, ISSUER], [make_anchor(valid=(-99, -1)), ANCHOR], 1, id="an expired anchor beside a valid one"
        ),
        pytest.param([make_leaf(purposes=()), ISSUER], [ANCHOR], 1, id="no extended key usage means any"),
    ],
)
def test_other_shapes_that_the_proxy_accepts(
    chain: list[x509.Certificate], anchors: list[x509.Certificate], issuer: int
) -> None:
    svid = check(*chain, anchors=anchors)
    assert svid.issuer_sha256 == fingerprint(chain[issuer])
    assert svid.chain == tuple(map(der_of, chain))


def test_a_leaf_signed_by_the_anchor_itself_names_the_anchor_as_its_issuer() -> None:
    leaf = make_leaf(issuer="root", issuer_key=ANCHOR_KEY)
    assert check(leaf).issuer_sha256 == fingerprint(ANCHOR)


def test_it_ends_when_the_first_of_its_chain_does() -> None:
    assert check(LEAF, make_issuer(valid=(-10, 60))).not_after == NOW + 60


def names(*sans: x509.GeneralName) -> list[x509.Certificate]:
    return [make_leaf(sans=sans), ISSUER]


BROKEN_LEAVES = {
    "an empty subject": ([make_leaf(subject=""), ISSUER], "the subject is empty, which the proxy's parser refuses"),
    "somebody else's key": ([make_leaf(key=OTHER_KEY), ISSUER], "the certificate is not for our key"),
    "a key of another kind": (
        [make_leaf(key=ed25519.Ed25519PrivateKey.generate()), ISSUER],
        "the certificate is not for our key",
    ),
    "the URI first": (
        names(URI, DNS),
        f"the names {WANTED} were expected in this order, found "
        "spiffe://cluster.local/ns/shop/sa/web, web.shop.serviceaccount.identity.linkerd.cluster.local",
    ),
    "no URI": (names(DNS), f"the names {WANTED} were expected in this order, found {DNS.value}"),
    "no DNS name": (names(URI), f"the names {WANTED} were expected in this order, found {URI.value}"),
    "no names": (names(), f"the names {WANTED} were expected in this order, found none"),
    "a name too many": (
        names(DNS, URI, x509.DNSName("more")),
        f"the names {WANTED} were expected in this order, found {WANTED}, more",
    ),
    "the URI as a DNS name": (
        names(DNS, x509.DNSName(URI.value)),
        f"the names {WANTED} were expected in this order, found {WANTED}",
    ),
    "a CA's certificate": ([make_leaf(authority=True), ISSUER], "the certificate is that of a CA; a leaf was expected"),
    "a key that may not sign": (
        [make_leaf(bits=usage(key_agreement=True)), ISSUER],
        "key usage digitalSignature is missing",
    ),
    "for clients alone": (
        [make_leaf(purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]), ISSUER],
        "extended key usage for a TLS server is missing",
    ),
    "for servers alone": (
        [make_leaf(purposes=[ExtendedKeyUsageOID.SERVER_AUTH]), ISSUER],
        "extended key usage for a TLS client is missing",
    ),
}

BROKEN_PATHS = {
    "an issuer missing": ([LEAF], "the chain does not lead to a trust anchor of the mesh that is valid"),
    "an issuer of the same name": (
        [LEAF, certify("issuer", OTHER_KEY, "root", ANCHOR_KEY, ca())],
        "certificate 1 of the chain is not signed by the one after it",
    ),
    "the chain in the wrong order": (
        [deep()[0], deep()[2], deep()[1]],
        "certificate 1 of the chain is not signed by the one after it",
    ),
    "the second link broken": (
        [LEAF, ISSUER, deep()[2]],
        "certificate 2 of the chain is not signed by the one after it",
    ),
    "another mesh": (
        [LEAF, certify("issuer", ISSUER_KEY, "root", OTHER_KEY, ca())],
        "the chain does not lead to a trust anchor of the mesh that is valid",
    ),
    "an issuer without constraints": ([LEAF, make_issuer(extensions=())], "an issuer in the chain is not a CA"),
    "an issuer that is a leaf": (
        [LEAF, make_issuer(extensions=[x509.BasicConstraints(ca=False, path_length=None)])],
        "an issuer in the chain is not a CA",
    ),
    "an issuer that may not sign": (
        [LEAF, make_issuer(extensions=ca(signs=False))],
        "an issuer in the chain may not sign certificates (key usage)",
    ),
    "one below an issuer that may have none": (
        [*deep()[:2], certify("middle", OTHER_KEY, "root", ANCHOR_KEY, ca(0))],
        "an issuer in the chain may not have another below it (path length)",
    ),
    "an expired leaf": ([make_leaf(valid=(-99, -7)), ISSUER], "the certificate expired 7 s ago"),
    "a leaf that ends this second": ([make_leaf(valid=(-99, 0)), ISSUER], "the certificate expired 0 s ago"),
    "a leaf from the future": (
        [make_leaf(valid=(300, 900)), ISSUER],
        "the certificate is valid only 300 s from now: do the clocks agree?",
    ),
    "an expired issuer": ([LEAF, make_issuer(valid=(-99, -5))], "an issuer in the chain expired 5 s ago"),
    "an issuer from the future": (
        [LEAF, make_issuer(valid=(20, 99))],
        "an issuer in the chain is valid only 20 s from now: do the clocks agree?",
    ),
}


@pytest.mark.parametrize(("chain", "text"), (BROKEN_LEAVES | BROKEN_PATHS).values(), ids=BROKEN_LEAVES | BROKEN_PATHS)
def test_what_the_proxy_would_refuse_is_refused_here_with_its_reason(chain: list[x509.Certificate], text: str) -> None:
    with pytest.raises(SvidError) as refused:
        check(*chain)
    assert str(refused.value) == text


def test_an_anchor_that_has_expired_leads_nowhere() -> None:
    with pytest.raises(SvidError) as refused:
        check(LEAF, ISSUER, anchors=[make_anchor(valid=(-99, -1))])
    assert str(refused.value) == "the chain does not lead to a trust anchor of the mesh that is valid"


def test_a_chain_or_bundle_that_is_no_pem_is_refused() -> None:
    for chain, anchors in (("", pem_of(ANCHOR)), (pem_of(LEAF), "anchors")):
        with pytest.raises(SvidError) as refused:
            check_svid(chain, KEY, anchors, IDENTITY, NOW)
        assert str(refused.value) == "a certificate in PEM was expected, found none"


@given(st.floats(NOW - 10, NOW + 3600, exclude_max=True))
def test_it_is_good_at_every_moment_of_its_life(now: float) -> None:
    assert check(LEAF, ISSUER, now=now).not_after > now


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, len(der_of(LEAF)) - 1), st.integers(1, 255))
def test_a_leaf_with_one_byte_changed_is_refused_and_nothing_else_is_raised(at: int, change: int) -> None:
    content = bytearray(der_of(LEAF))
    content[at] ^= change
    body = base64.encodebytes(bytes(content)).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n{pem_of(ISSUER)}"
    with pytest.raises(SvidError):
        check_svid(pem, KEY, pem_of(ANCHOR), IDENTITY, NOW)


def test_der_that_would_be_encoded_otherwise_is_refused() -> None:
    # A length of the long form where the short one would do: BER, which some readers take for DER.
    content = der_of(LEAF)
    assert content[:2] == b"\x30\x82"
    loose = b"\x30\x83\x00" + content[2:]
    body = base64.encodebytes(loose).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n{pem_of(ISSUER)}"
    with pytest.raises(SvidError) as refused:
        check_svid(pem, KEY, pem_of(ANCHOR), IDENTITY, NOW)
    assert str(refused.value) in (
        "a certificate in PEM was expected, found one that is damaged",  # a library that reads DER strictly
        "a certificate of the chain does not encode to the same bytes again",
    )


RECEIVED = 1_800_000_000.0
lives = st.floats(10, 90 * 86400)
draws = st.floats(0, 1, exclude_max=True)


def stored(life: float, draw: float) -> StoredSvid:
    ends = RECEIVED + life
    svid = Svid("spiffe://d/ns/n/sa/s", "s.n", (b"",), b"", RECEIVED - 10, ends, 1, "")
    return StoredSvid(svid, RECEIVED, renew_at(RECEIVED, ends, draw))


@given(lives, draws)
def test_it_is_renewed_between_50_and_65_percent_of_its_life_from_receipt(life: float, draw: float) -> None:
    share = (renew_at(RECEIVED, RECEIVED + life, draw) - RECEIVED) / life
    assert 0.4999 <= share <= 0.6501


@given(lives, draws, draws)
def test_a_later_draw_renews_later_so_that_a_fleet_spreads(life: float, one: float, other: float) -> None:
    first, second = (renew_at(RECEIVED, RECEIVED + life, draw) for draw in sorted((one, other)))
    assert first <= second
    whole = renew_at(RECEIVED, RECEIVED + life, 1.0) - renew_at(RECEIVED, RECEIVED + life, 0.0)
    assert whole == pytest.approx(0.15 * life, rel=1e-3, abs=1e-3)


def test_one_that_came_late_is_renewed_by_the_life_it_has_left() -> None:
    assert renew_at(1000.0, 1100.0, 0.0) == 1050.0


@given(st.floats(0, 1e6), draws)
def test_one_that_has_expired_is_due_at_once(late: float, draw: float) -> None:
    assert renew_at(RECEIVED, RECEIVED - late, draw) == RECEIVED


@given(lives, draws, st.floats(0, 1), draws)
def test_a_new_issuer_brings_renewal_forward_never_back(life: float, draw: float, age: float, again: float) -> None:
    certificate, now = stored(life, draw), RECEIVED + age * life
    found = renew_after_issuer_change(certificate, now, again)
    assert found <= certificate.renew_at
    assert found <= now + min(ISSUER_SPREAD, 0.1 * life) + 1e-3
    assert found >= min(now, certificate.renew_at)


@given(lives, st.integers(0, 1000), draws)
def test_retries_grow_to_five_minutes_and_leave_room_for_more(life: float, attempt: int, draw: float) -> None:
    pauses = retries(RECEIVED + life, RECEIVED)
    pause = pauses.pause(attempt, draw)
    assert 0 < pause <= 300.0
    assert pause <= max(life, 1.0) / 10 * 1.001, "ten tries at least in a certificate's life"
    assert pauses.pause(attempt + 1, draw) >= pause


@given(st.integers(0, 1000), draws)
def test_without_a_certificate_the_controller_is_asked_for_at_most_two_signatures_a_second(
    attempt: int, draw: float
) -> None:
    assert 0.5 <= FIRST_RETRIES.pause(attempt, draw) <= 60.0
