"""Paths of certificates: which there are, and why a proxy refuses one. Many more rows: tests/support/issuers.py."""

from ipaddress import ip_address, ip_network

from cryptography import x509

from exclave.kit.formats.certificate_path import path_fault, paths_to_anchors
from exclave.kit.formats.x509 import der_of
from support.certificates import (
    ANCHOR_KEY,
    ISSUER_KEY,
    NOW,
    OTHER_KEY,
    ca,
    certify,
    make_anchor,
    make_issuer,
    make_leaf,
)

ANCHOR, ISSUER, LEAF = make_anchor(), make_issuer(), make_leaf()
OLD = certify("old", OTHER_KEY, "old", OTHER_KEY, ca(1))
CROSS = certify("root", ANCHOR_KEY, "old", OTHER_KEY, ca(1))


def test_all_paths_are_found_the_shortest_first_and_loops_end() -> None:
    back = certify("old", OTHER_KEY, "root", ANCHOR_KEY, ca())  # each of the two has signed the other
    found = list(paths_to_anchors(ISSUER, [CROSS, back, ISSUER], [ANCHOR, OLD]))
    assert found[0] == (ISSUER, ANCHOR)
    assert (ISSUER, CROSS, OLD) in found
    assert all(len(set(path)) == len(path) for path in found)
    assert list(paths_to_anchors(ISSUER, [], [OLD])) == []
    assert list(paths_to_anchors(ISSUER, [], [ISSUER])) == [(ISSUER,)]


def test_a_good_path_has_no_fault() -> None:
    assert path_fault((LEAF,), (ISSUER, ANCHOR), NOW) is None
    assert path_fault((), (ISSUER, ANCHOR), NOW) is None


def test_a_certificate_that_another_key_has_signed_is_named() -> None:
    assert path_fault((LEAF,), (ISSUER, OLD), NOW) == "'CN=issuer' is not signed by 'CN=old'"


def test_constraints_hold_for_the_names_of_intermediates_too() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("identity.linkerd.cluster.local")])
    issuer = make_issuer(extensions=(*ca(), names))
    root = certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, (*ca(1), permits("other.example")))
    assert path_fault((), (issuer, root), NOW) == (
        "'CN=root' does not permit the name 'identity.linkerd.cluster.local' (name constraints)"
    )
    root = certify("root", ANCHOR_KEY, "root", ANCHOR_KEY, (*ca(1), permits("linkerd.cluster.local")))
    assert path_fault((), (issuer, root), NOW) is None


def permits(value: str) -> x509.NameConstraints:
    return x509.NameConstraints([x509.DNSName(value)], None)


def test_addresses_are_compared_with_networks() -> None:
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("10.1.2.3"))])
    for network, fault in (
        ("10.0.0.0/8", None),
        ("192.0.2.0/24", "'CN=issuer' does not permit the name '10.1.2.3' (name constraints)"),
    ):
        constraints = x509.NameConstraints([x509.IPAddress(ip_network(network))], None)
        issuer = make_issuer(extensions=(*ca(), constraints))
        leaf = certify("leaf", OTHER_KEY, "issuer", ISSUER_KEY, (names,))
        assert path_fault((leaf,), (issuer, ANCHOR), NOW) == fault


def test_an_extension_that_cannot_be_read_is_a_fault() -> None:
    usage, constraints = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d13")  # object identifiers (RFC 5280)
    twice = x509.load_der_x509_certificate(der_of(ISSUER).replace(usage, constraints))
    assert path_fault((), (twice, ANCHOR), NOW) == "an extension cannot be read (DuplicateExtension)"
