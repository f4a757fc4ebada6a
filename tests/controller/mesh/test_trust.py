"""Anchors and issuer as a pair: in whatever order an admin changes the two, what members hold stays valid."""

import pytest
from cryptography import x509

from exclave.controller.mesh.trust import LEAVES_OUT, Trust, choose_trust
from exclave.kit.formats.x509 import pem_of
from support.certificates import ANCHOR_KEY, ISSUER_KEY, NOW, OTHER_KEY, ca, certify, make_anchor, make_issuer

from ...api.test_issuer import secret

OLD, OLD_ISSUER = make_anchor(), make_issuer()
NEW = certify("new", OTHER_KEY, "new", OTHER_KEY, ca(1))
NEW_ISSUER = certify("new issuer", ISSUER_KEY, "new", OTHER_KEY, ca())
THIRD_ISSUER = certify("old issuer again", ANCHOR_KEY, "root", ANCHOR_KEY, ca())

UNCHAINED = "the issuer does not lead to the trust anchors that Linkerd publishes"
NO_ISSUER = "the issuer Secret holds neither crt.pem and key.pem nor tls.crt and tls.key"
NO_ANCHORS = "ConfigMap linkerd-identity-trust-roots: a certificate in PEM was expected, found none"


def bundle(*anchors: x509.Certificate) -> dict[str, object]:
    return {"data": {"ca-bundle.crt": "".join(map(pem_of, anchors))}}


def text(*anchors: x509.Certificate) -> str:
    return "".join(map(pem_of, anchors))


def last_good() -> Trust:
    found, faults = choose_trust(secret([OLD_ISSUER]), bundle(OLD), None, NOW)
    assert found is not None and not faults
    return found


Row = tuple[dict[str, object] | None, dict[str, object] | None, x509.Certificate, str, dict[str, str]]

ROWS: dict[str, Row] = {
    "nothing has changed": (secret([OLD_ISSUER]), bundle(OLD), OLD_ISSUER, text(OLD), {}),
    "a new anchor beside the old one": (secret([OLD_ISSUER]), bundle(OLD, NEW), OLD_ISSUER, text(OLD, NEW), {}),
    "a new issuer under the new anchor of a bundle": (
        secret([NEW_ISSUER]), bundle(OLD, NEW), NEW_ISSUER, text(OLD, NEW), {},
    ),
    "both at once": (secret([NEW_ISSUER]), bundle(NEW), NEW_ISSUER, text(NEW), {}),
    "the old anchor taken out too early": (
        secret([OLD_ISSUER]), bundle(NEW), OLD_ISSUER, text(OLD), {"anchors": LEAVES_OUT},
    ),
    "the same, with another issuer under the old one": (
        secret([THIRD_ISSUER], ANCHOR_KEY), bundle(NEW), THIRD_ISSUER, text(OLD), {"anchors": LEAVES_OUT},
    ),
    "a new issuer before its anchor": (
        secret([NEW_ISSUER]), bundle(OLD), OLD_ISSUER, text(OLD), {"issuer": UNCHAINED},
    ),
    "a Secret that says nothing, and a new bundle that is good": (
        {"data": {}}, bundle(OLD, NEW), OLD_ISSUER, text(OLD, NEW), {"issuer": NO_ISSUER},
    ),
    "a Secret that says nothing, and a bundle that leaves the issuer out": (
        {"data": {}}, bundle(NEW), OLD_ISSUER, text(OLD), {"issuer": NO_ISSUER, "anchors": LEAVES_OUT},
    ),
    "a bundle that is none, and an issuer that is good": (
        secret([THIRD_ISSUER], ANCHOR_KEY), {"data": {}}, THIRD_ISSUER, text(OLD), {"anchors": NO_ANCHORS},
    ),
    "a Secret of another shape": (
        {"data": 7}, bundle(OLD), OLD_ISSUER, text(OLD),
        {"issuer": "it has another shape than expected: TypeError: argument of type 'int' is not iterable "
                   "(exclave/api/issuer.py:"},
    ),
    "both taken away": (None, None, OLD_ISSUER, text(OLD), {}),
}  # fmt: skip


@pytest.mark.parametrize(("found", "anchors", "issuer", "published", "faults"), ROWS.values(), ids=ROWS)
def test_the_pair_that_is_used(
    found: dict[str, object] | None,
    anchors: dict[str, object] | None,
    issuer: x509.Certificate,
    published: str,
    faults: dict[str, str],
) -> None:
    trust, reported = choose_trust(found, anchors, last_good(), NOW)
    assert trust is not None
    assert (trust.issuer.certificate, trust.anchors) == (issuer, published)
    assert {what: text[: len(faults.get(what, ""))] for what, text in reported.items()} == faults


FIRST: dict[str, tuple[dict[str, object] | None, dict[str, object] | None, dict[str, str]]] = {
    "nothing was seen": (None, None, {}),
    "no anchors": (secret([OLD_ISSUER]), None, {}),
    "no issuer": (None, bundle(OLD), {}),
    "an issuer under other anchors": (secret([OLD_ISSUER]), bundle(NEW), {"issuer": UNCHAINED}),
    "anchors that are none": (secret([OLD_ISSUER]), {"data": {}}, {"anchors": NO_ANCHORS}),
}


@pytest.mark.parametrize(("found", "anchors", "faults"), FIRST.values(), ids=FIRST)
def test_there_is_none_before_a_good_pair_was_read(
    found: dict[str, object] | None, anchors: dict[str, object] | None, faults: dict[str, str]
) -> None:
    assert choose_trust(found, anchors, None, NOW) == (None, faults)


def test_new_anchors_must_fit_an_issuer_that_has_expired_too() -> None:
    late = NOW + 7200
    trust, faults = choose_trust(secret([OLD_ISSUER]), bundle(OLD, NEW), last_good(), late)
    assert trust is not None and trust.anchors == text(OLD, NEW)
    assert faults == {"issuer": "what the issuer signs would be refused by proxies: 'CN=issuer' has expired"}
    trust, faults = choose_trust(secret([OLD_ISSUER]), bundle(NEW), last_good(), late)
    assert trust is not None and (trust.issuer.certificate, trust.anchors) == (OLD_ISSUER, text(OLD))
    assert set(faults) == {"anchors", "issuer"}
