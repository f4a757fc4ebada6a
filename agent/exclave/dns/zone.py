"""DNS replies for the two headless services of Linkerd's control plane, as the cluster's DNS has them. Pure.

linkerd2-proxy queries SRV of a service's own name (without `_port._tcp`) and reads the pod's address from the first
label of the target (`10-1-2-3`, or IPv6 with dashes for colons). If there is no SRV record it queries A and AAAA.
Sources: RFC 1035 section 4, RFC 6891 (EDNS), RFC 7766 (TCP); linkerd2-proxy, linkerd/dns/src/lib.rs, `resolve_addrs`
and `srv_to_socket_addr`; for target and TTL coredns/coredns, plugin/kubernetes/kubernetes.go, `endpointHostname`.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from exclave.api.settings import DESTINATION_PORT, POLICY_PORT, Settings

TTL = 5  # seconds that an answer, also a negative one, may be cached: CoreDNS' default, and linkerd2-proxy's minimum

_TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)

Address = IPv4Address | IPv6Address

MIN_PAYLOAD, OUR_PAYLOAD = 512, 1232
"""Bytes of a reply over UDP: without EDNS, and at most with it (no fragments on any path: DNS flag day 2020)."""

MAX_MESSAGE = 65535

_HEADER = struct.Struct("!HHHHHH")

_REPLY = dns.flags.QR

_OPERATION = 0x7800

_COPIED_FLAGS = _OPERATION | dns.flags.RD


@dataclass(frozen=True)
class HeadlessService:
    """A headless service: its full name, the port of its SRV records, and the addresses of its pods."""

    name: dns.name.Name
    port: int
    pods: tuple[Address, ...]


@dataclass(frozen=True)
class ZoneAnswer:
    """Response code, and the records of each section. `ours`: the stub is authoritative for the name."""

    rcode: dns.rcode.Rcode
    answer: tuple[dns.rrset.RRset, ...] = ()
    authority: tuple[dns.rrset.RRset, ...] = ()
    additional: tuple[dns.rrset.RRset, ...] = ()
    ours: bool = False


def control_plane_services(settings: Settings) -> tuple[HeadlessService, ...]:
    """The services that a proxy with these settings looks up. Raises ValueError if a name or address is malformed.

    Source of names and ports: linkerd/linkerd2, charts/linkerd-control-plane/templates/destination.yaml.
    """
    linkerd, pods = settings.linkerd, settings.control_plane
    return (
        _service("linkerd-dst-headless", linkerd.namespace, linkerd.cluster_domain, DESTINATION_PORT, pods.destination),
        _service("linkerd-policy", linkerd.namespace, linkerd.cluster_domain, POLICY_PORT, pods.policy),
    )


def answer_from_zone(
    services: tuple[HeadlessService, ...] | None, name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> ZoneAnswer:
    """Answer one question of class IN. `services` is None before the first settings."""
    if services is None:
        return ZoneAnswer(dns.rcode.SERVFAIL)  # resolvers repeat the query soon, and cache nothing
    service = next((service for service in services if name.is_subdomain(service.name)), None)
    if service is None or kind in _TRANSFERS:
        # Not NXDOMAIN: the name may exist, and resolvers would cache this. REFUSED leads them to the next server.
        return ZoneAnswer(dns.rcode.REFUSED)
    records = _records(service, name)
    if records is None:
        return ZoneAnswer(dns.rcode.NXDOMAIN, authority=(_authority(service),), ours=True)
    answer = tuple(record for record in records if kind in (record.rdtype, dns.rdatatype.ANY))
    if not answer:
        # Not NXDOMAIN, even without pods: by RFC 8020 it covers all names below, and pods may return.
        return ZoneAnswer(dns.rcode.NOERROR, authority=(_authority(service),), ours=True)
    additional = _pods(service) if kind == dns.rdatatype.SRV else ()
    return ZoneAnswer(dns.rcode.NOERROR, answer, additional=additional, ours=True)


def _service(label: str, namespace: str, domain: str, port: int, addresses: tuple[str, ...]) -> HeadlessService:
    text = f"{label}.{namespace}.svc.{domain.rstrip('.')}."
    try:
        name = dns.name.from_text(text)
    except dns.exception.DNSException as problem:
        raise ValueError(f"{text} is not a DNS name: {problem}") from None
    for address in addresses:
        if "%" in address:
            raise ValueError(f"{address}: an address without a zone was expected")
    return HeadlessService(name, port, tuple(map(ip_address, addresses)))


def _records(service: HeadlessService, name: dns.name.Name) -> tuple[dns.rrset.RRset, ...] | None:
    """All records of a name in a service, None without that name. The owner is spelled as in the question."""
    if name == service.name:
        return _targets(service, name) + _addresses(name, service.pods)
    pod = next((pod for pod in service.pods if name == _pod_name(service, pod)), None)
    return None if pod is None else _addresses(name, (pod,))


def _targets(service: HeadlessService, name: dns.name.Name) -> tuple[dns.rrset.RRset, ...]:
    return _rrset(name, dns.rdatatype.SRV, [f"0 100 {service.port} {_pod_name(service, pod)}" for pod in service.pods])


def _addresses(name: dns.name.Name, pods: tuple[Address, ...]) -> tuple[dns.rrset.RRset, ...]:
    four = _rrset(name, dns.rdatatype.A, [str(pod) for pod in pods if pod.version == 4])
    six = _rrset(name, dns.rdatatype.AAAA, [str(pod) for pod in pods if pod.version == 6])
    return four + six


def _pods(service: HeadlessService) -> tuple[dns.rrset.RRset, ...]:
    """The addresses of SRV targets, which resolvers would query next."""
    return tuple(record for pod in service.pods for record in _addresses(_pod_name(service, pod), (pod,)))


def _pod_name(service: HeadlessService, pod: Address) -> dns.name.Name:
    # IPv6 in full, since a label such as `fd00--` must not end in a dash.
    label = pod.exploded.replace(".", "-").replace(":", "-")
    return dns.name.Name((label.encode(), *service.name.labels))


def _authority(service: HeadlessService) -> dns.rrset.RRset:
    """The SOA record, which limits how long a negative answer may be cached (RFC 2308)."""
    soa = f"{service.name} hostmaster.{service.name} 1 {TTL} {TTL} {TTL} {TTL}"
    (record,) = _rrset(service.name, dns.rdatatype.SOA, [soa])
    return record


def _rrset(name: dns.name.Name, kind: dns.rdatatype.RdataType, texts: list[str]) -> tuple[dns.rrset.RRset, ...]:
    return (dns.rrset.from_text_list(name, TTL, dns.rdataclass.IN, kind, texts),) if texts else ()


class DnsReply(NamedTuple):
    """The bytes to send, and the name of their response code, such as NOERROR."""

    code: str
    wire: bytes


def respond(services: tuple[HeadlessService, ...] | None, query: bytes, *, over_udp: bool) -> DnsReply | None:
    """The reply to one message; None if it gets no reply. `services` is None before the first settings."""
    if len(query) < _HEADER.size:
        return None
    flags = _HEADER.unpack_from(query)[1]
    if flags & _REPLY:
        return None  # else two servers could answer each other's replies without end
    if flags & _OPERATION:  # QUERY is 0
        return _bare(query, dns.rcode.NOTIMP)
    try:
        asked = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError):
        return _bare(query, dns.rcode.FORMERR)
    if len(asked.question) != 1:
        return _bare(query, dns.rcode.FORMERR)
    found = _answer(services, asked)
    return DnsReply(dns.rcode.to_text(found.rcode), _encoded(asked, found, over_udp=over_udp))


def _answer(services: tuple[HeadlessService, ...] | None, asked: dns.message.Message) -> ZoneAnswer:
    (question,) = asked.question
    if asked.edns > 0:
        return ZoneAnswer(dns.rcode.BADVERS)
    if question.rdclass != dns.rdataclass.IN:
        return ZoneAnswer(dns.rcode.REFUSED)
    return answer_from_zone(services, question.name, question.rdtype)


def _encoded(asked: dns.message.Message, found: ZoneAnswer, *, over_udp: bool) -> bytes:
    size = MAX_MESSAGE
    if over_udp:
        accepted = asked.payload if asked.edns >= 0 else MIN_PAYLOAD
        size = max(MIN_PAYLOAD, min(accepted, OUR_PAYLOAD))
    # Additional records are optional: a reply that is too long is tried without them.
    for sections in ((found.answer, found.authority, found.additional), (found.answer, found.authority, ())):
        reply = _reply(asked, found)
        for section, records in zip((reply.answer, reply.authority, reply.additional), sections, strict=True):
            section.extend(records)
        try:
            return reply.to_wire(max_size=size)
        except dns.exception.TooBig:
            continue
    reply = _reply(asked, found)  # no records, marked as truncated: the resolver repeats the query over TCP
    reply.flags |= dns.flags.TC
    return reply.to_wire(max_size=size)


def _reply(asked: dns.message.Message, found: ZoneAnswer) -> dns.message.Message:
    reply = dns.message.make_response(asked, our_payload=OUR_PAYLOAD)
    if found.ours:
        reply.flags |= dns.flags.AA
    reply.set_rcode(found.rcode)
    return reply


def _bare(query: bytes, rcode: dns.rcode.Rcode) -> DnsReply:
    """A reply that is only a header, for a query that was not parsed further."""
    number, flags = _HEADER.unpack_from(query)[:2]
    return DnsReply(
        dns.rcode.to_text(rcode), _HEADER.pack(number, _REPLY | (flags & _COPIED_FLAGS) | rcode, 0, 0, 0, 0)
    )
