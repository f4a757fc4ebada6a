"""Which name gets which answer."""

import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from exclave.api.group import GroupSpec
from exclave.api.settings import ControlPlane, LinkerdSettings, Settings
from exclave.dns.zone import HeadlessService, answer_from_zone, control_plane_services

DESTINATION = "linkerd-dst-headless.linkerd.svc.cluster.local."
POLICY = "linkerd-policy.linkerd.svc.cluster.local."


def make_settings(
    destination: tuple[str, ...] = ("10.42.0.5", "10.42.1.7"),
    policy: tuple[str, ...] = ("10.42.0.5",),
    *,
    namespace: str = "linkerd",
    domain: str = "cluster.local",
) -> Settings:
    linkerd = LinkerdSettings(namespace, "cluster.local", domain, ("10.0.0.0/8",), "edge", "all-authenticated", "25")
    group = GroupSpec("web", ("10.77.0.0/24",))
    return Settings("shop", "web", linkerd, "anchors", "issuer", ControlPlane(destination, policy), 10.0, group)


SERVICES = control_plane_services(make_settings(("10.42.0.5", "fd00:42::5"), ()))


def ask(name: str, kind: str, services: tuple[HeadlessService, ...] | None = SERVICES) -> tuple[str, list[str]]:
    found = answer_from_zone(services, dns.name.from_text(name), dns.rdatatype.from_text(kind))
    lines = [f"{record.rdtype.name} {rdata}" for record in found.answer for rdata in record]
    lines += [f"authority {record.rdtype.name} {record.ttl}" for record in found.authority]
    lines += [f"additional {record.rdtype.name} {rdata}" for record in found.additional for rdata in record]
    return dns.rcode.to_text(found.rcode), sorted(lines)


POD4 = "10-42-0-5." + DESTINATION
POD6 = "fd00-0042-0000-0000-0000-0000-0000-0005." + DESTINATION

CASES = {
    "the proxy's question: SRV of the service itself, a target per pod, with their addresses": (
        (DESTINATION, "SRV"),
        (
            "NOERROR",
            [
                f"SRV 0 100 8086 {POD4}",
                f"SRV 0 100 8086 {POD6}",
                "additional A 10.42.0.5",
                "additional AAAA fd00:42::5",
            ],
        ),
    ),
    "its second question: addresses": ((DESTINATION, "A"), ("NOERROR", ["A 10.42.0.5"])),
    "and those of the other family": ((DESTINATION, "AAAA"), ("NOERROR", ["AAAA fd00:42::5"])),
    "a target leads to its pod": ((POD4, "A"), ("NOERROR", ["A 10.42.0.5"])),
    "so does one of IPv6": ((POD6, "AAAA"), ("NOERROR", ["AAAA fd00:42::5"])),
    "a name in capitals is the same name": ((DESTINATION.upper(), "A"), ("NOERROR", ["A 10.42.0.5"])),
    "everything that is known, if asked for": (
        (POD4, "ANY"),
        ("NOERROR", ["A 10.42.0.5"]),
    ),
    "a pod of IPv4 has no AAAA: the name is there, the record is not": (
        (POD4, "AAAA"),
        ("NOERROR", ["authority SOA 5"]),
    ),
    "no service has TXT records": ((DESTINATION, "TXT"), ("NOERROR", ["authority SOA 5"])),
    "a service without pods keeps its name": ((POLICY, "SRV"), ("NOERROR", ["authority SOA 5"])),
    "no such pod": (("10-42-0-9." + DESTINATION, "A"), ("NXDOMAIN", ["authority SOA 5"])),
    "nothing stands below a pod": (("deeper." + POD4, "A"), ("NXDOMAIN", ["authority SOA 5"])),
    "another name of the cluster may exist: ask somebody else": (
        ("kubernetes.default.svc.cluster.local.", "A"),
        ("REFUSED", []),
    ),
    "so may any name of the world": (("example.com.", "A"), ("REFUSED", [])),
    "a name that merely ends alike is not ours": (("my" + DESTINATION, "A"), ("REFUSED", [])),
    "the name above is not ours": (("linkerd.svc.cluster.local.", "A"), ("REFUSED", [])),
    "no zone is handed out": ((DESTINATION, "AXFR"), ("REFUSED", [])),
}


@pytest.mark.parametrize(("question", "answer"), CASES.values(), ids=CASES)
def test_every_question_has_its_answer(question: tuple[str, str], answer: tuple[str, list[str]]) -> None:
    assert ask(*question) == answer


def test_without_settings_nothing_is_claimed() -> None:
    assert ask(DESTINATION, "A", None) == ("SERVFAIL", [])
    assert ask("example.com.", "A", None) == ("SERVFAIL", [])


def test_names_follow_the_meshs_own_settings() -> None:
    services = control_plane_services(make_settings(namespace="mesh", domain="prod.example.com."))
    assert ask("linkerd-dst-headless.mesh.svc.prod.example.com.", "A", services)[0] == "NOERROR"
    assert ask("linkerd-policy.mesh.svc.prod.example.com.", "SRV", services)[1] == [
        "SRV 0 100 8090 10-42-0-5.linkerd-policy.mesh.svc.prod.example.com.",
        "additional A 10.42.0.5",
    ]
    assert ask(DESTINATION, "A", services)[0] == "REFUSED"


def test_answers_may_be_kept_for_five_seconds_whatever_they_are() -> None:
    found = answer_from_zone(SERVICES, dns.name.from_text(DESTINATION), dns.rdatatype.SRV)
    assert {record.ttl for record in (*found.answer, *found.additional)} == {5}
    nothing = answer_from_zone(SERVICES, dns.name.from_text(POLICY), dns.rdatatype.A)
    (soa,) = nothing.authority
    assert (soa.ttl, soa[0].minimum) == (5, 5)  # type: ignore[attr-defined]


WRONG = {
    "an address that is none": (
        make_settings(destination=("10.42.0",)),
        "'10.42.0' does not appear to be an IPv4 or IPv6 address",
    ),
    "an address that holds on one link only": (
        make_settings(policy=("fe80::1%eth0",)),
        "fe80::1%eth0: an address without a zone was expected",
    ),
    "a domain that is none": (
        make_settings(domain="a..b"),
        "linkerd-dst-headless.linkerd.svc.a..b. is not a DNS name: A DNS label is empty.",
    ),
}


@pytest.mark.parametrize(("settings", "text"), WRONG.values(), ids=WRONG)
def test_settings_that_give_no_names_are_refused_by_name(settings: Settings, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        control_plane_services(settings)
    assert str(refused.value) == text
