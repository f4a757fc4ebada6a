"""Which name gets which answer, and which bytes get which reply."""

import struct

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.group import GroupSpec
from exclave.api.settings import ControlPlane, LinkerdSettings, Settings
from exclave.dns.zone import DnsReply, HeadlessService, answer_from_zone, control_plane_services, ip_address, respond
from support.mesh import mesh

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
    return Settings("shop", "web", linkerd, mesh().anchor.pem, "issuer", ControlPlane(destination, policy), 10.0, group)


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
    "all records, if asked for": (
        (POD4, "ANY"),
        ("NOERROR", ["A 10.42.0.5"]),
    ),
    "a pod of IPv4 has no AAAA: the name is there, the record is not": (
        (POD4, "AAAA"),
        ("NOERROR", ["authority SOA 5"]),
    ),
    "no service has TXT records": ((DESTINATION, "TXT"), ("NOERROR", ["authority SOA 5"])),
    "a service without pods has a name": ((POLICY, "SRV"), ("NOERROR", ["authority SOA 5"])),
    "no such pod": (("10-42-0-9." + DESTINATION, "A"), ("NXDOMAIN", ["authority SOA 5"])),
    "nothing is below a pod": (("deeper." + POD4, "A"), ("NXDOMAIN", ["authority SOA 5"])),
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


def test_every_answer_may_be_cached_for_five_seconds() -> None:
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
def test_settings_without_valid_names_are_refused_with_the_name(settings: Settings, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        control_plane_services(settings)
    assert str(refused.value) == text


NAME = "linkerd-dst-headless.linkerd.svc.cluster.local."


def service(pods: int) -> tuple[HeadlessService, ...]:
    return (
        HeadlessService(dns.name.from_text(NAME), 8086, tuple(ip_address(f"10.42.0.{n}") for n in range(1, pods + 1))),
    )


def query(name: str = NAME, kind: str = "SRV", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]


def read(reply: DnsReply | None) -> dns.message.Message:
    assert reply is not None
    return dns.message.from_wire(reply.wire)


def test_a_reply_repeats_the_question_and_marks_authority() -> None:
    asked = dns.message.make_query("Linkerd-DST-headless.linkerd.svc.cluster.local.", "A")
    reply = read(respond(service(1), asked.to_wire(), over_udp=True))
    assert reply.id == asked.id
    assert str(reply.question[0].name) == "Linkerd-DST-headless.linkerd.svc.cluster.local."
    assert str(reply.answer[0].name) == "Linkerd-DST-headless.linkerd.svc.cluster.local."
    assert dns.flags.to_text(reply.flags) == "QR AA RD"


def test_a_refusal_is_nobodys_authoritative_word() -> None:
    reply = read(respond(service(1), query("example.com."), over_udp=True))
    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.flags & dns.flags.AA


CODES = {
    "of a class other than IN": (query(rdclass="CH"), "REFUSED"),
    "with EDNS of a version to come": (query(use_edns=0)[:-5] + b"\1" + query(use_edns=0)[-4:], "BADVERS"),
    "that is an update": (dns.update.UpdateMessage("cluster.local.").to_wire(), "NOTIMP"),
    "that is a notification": (struct.pack("!HHHHHH", 7, dns.opcode.to_flags(dns.opcode.NOTIFY), 1, 0, 0, 0), "NOTIMP"),
    "without a question": (struct.pack("!HHHHHH", 7, 0, 0, 0, 0, 0), "FORMERR"),
    "with two questions": (
        struct.pack("!HHHHHH", 7, 0, 2, 0, 0, 0) + b"\1a\0\0\1\0\1" + b"\1b\0\0\1\0\1",
        "FORMERR",
    ),
    "that ends too early": (query()[:-3], "FORMERR"),
    "with something behind it": (query() + b"\0", "FORMERR"),
    "whose name points to itself": (struct.pack("!HHHHHH", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", "FORMERR"),
}


@pytest.mark.parametrize(("wire", "code"), CODES.values(), ids=CODES)
def test_a_query_is_answered_with_its_mistake(wire: bytes, code: str) -> None:
    reply = respond(service(1), wire, over_udp=True)
    assert reply is not None
    assert reply.code == code
    assert dns.rcode.to_text(read(reply).rcode()) == code
    assert reply.wire[:2] == wire[:2]


DROPPED = {
    "nothing at all": b"",
    "less than a header": query()[:11],
    "a reply, which would be answered for ever": read(respond(service(1), query(), over_udp=True)).to_wire(),
}


@pytest.mark.parametrize("wire", DROPPED.values(), ids=DROPPED)
def test_some_messages_are_dropped(wire: bytes) -> None:
    assert respond(service(1), wire, over_udp=True) is None


SIZES = {
    "a few pods fit, and so do their addresses": (3, {}, True, (False, 3, 3)),
    "without EDNS 512 bytes are all there is": (30, {}, True, (True, 0, 0)),
    "an asker with room gets more": (10, {"use_edns": 0, "payload": 4096}, True, (False, 10, 10)),
    "but no more than passes every path": (60, {"use_edns": 0, "payload": 65535}, True, (True, 0, 0)),
    "less than 512 counts as 512": (3, {"use_edns": 0, "payload": 100}, True, (False, 3, 3)),
    "over TCP everything fits": (200, {}, False, (False, 200, 200)),
}


@pytest.mark.parametrize(("pods", "options", "over_udp", "expected"), SIZES.values(), ids=SIZES)
def test_a_reply_is_as_long_as_its_way_allows(
    pods: int, options: dict[str, object], over_udp: bool, expected: tuple[bool, int, int]
) -> None:
    found = respond(service(pods), query(**options), over_udp=over_udp)
    reply = read(found)
    assert found is not None
    assert (
        bool(reply.flags & dns.flags.TC),
        sum(len(record) for record in reply.answer),
        sum(len(record) for record in reply.additional),
    ) == expected
    if over_udp:
        assert len(found.wire) <= max(512, min(1232, int(str(options.get("payload", 512)))))


def test_where_not_all_fits_addresses_go_first_and_then_the_answer() -> None:
    states = []
    for pods in range(1, 40):
        reply = read(respond(service(pods), query(), over_udp=True))
        whole = (bool(reply.flags & dns.flags.TC), sum(map(len, reply.answer)), sum(map(len, reply.additional)))
        states.append({(False, pods, pods): "all", (False, pods, 0): "answer", (True, 0, 0): "truncated"}[whole])
    assert list(dict.fromkeys(states)) == ["all", "answer", "truncated"]


@given(st.binary(max_size=600))
def test_no_bytes_make_it_fail(junk: bytes) -> None:
    respond(service(2), junk, over_udp=True)


@given(st.binary(max_size=80), st.integers(0, 60))
def test_nor_does_a_query_with_bytes_replaced(junk: bytes, at: int) -> None:
    wire = query(use_edns=0)
    respond(service(2), wire[:at] + junk + wire[at + len(junk) :], over_udp=True)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_every_type_and_class_has_a_reply(kind: int, of_class: int) -> None:
    wire = (
        struct.pack("!HHHHHH", 7, 0, 1, 0, 0, 0)
        + dns.name.from_text(NAME).to_wire()
        + struct.pack("!HH", kind, of_class)
    )  # type: ignore[operator]
    assert respond(service(2), wire, over_udp=True) is not None
