"""Turns DNS queries into replies, as bytes, whatever the zone holds. Pure.

`respond` raises nothing, whatever the bytes are. Sources: RFC 1035 section 4, RFC 6891 (EDNS), RFC 7766 (TCP).
"""

import struct
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass

from exclave.dns.zone import HeadlessService, ZoneAnswer, answer_from_zone

MIN_PAYLOAD, OUR_PAYLOAD = 512, 1232
"""Bytes of a reply over UDP: without EDNS, and at most with it (no fragments on any path: DNS flag day 2020)."""

MAX_MESSAGE = 65535

_HEADER = struct.Struct("!HHHHHH")
_REPLY = dns.flags.QR
_OPERATION = 0x7800
_COPIED_FLAGS = _OPERATION | dns.flags.RD


class DnsReply(NamedTuple):
    """The bytes to send, and the name of their response code, such as NOERROR."""

    code: str
    wire: bytes


def respond(services: tuple[HeadlessService, ...] | None, query: bytes, *, over_udp: bool) -> DnsReply | None:
    """The reply to one message, None if it gets no reply. `services` is None before the first settings."""
    if len(query) < _HEADER.size:
        return None
    flags = _HEADER.unpack_from(query)[1]
    if flags & _REPLY:
        return None  # two servers that answer each other's replies would never stop
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
    reply = _reply(asked, found)  # no records, marked as truncated: the resolver asks again over TCP
    reply.flags |= dns.flags.TC
    return reply.to_wire(max_size=size)


def _reply(asked: dns.message.Message, found: ZoneAnswer) -> dns.message.Message:
    reply = dns.message.make_response(asked, our_payload=OUR_PAYLOAD)
    if found.ours:
        reply.flags |= dns.flags.AA
    reply.set_rcode(found.rcode)
    return reply


def _bare(query: bytes, rcode: dns.rcode.Rcode) -> DnsReply:
    """A reply that is only a header, for a query that was not read any further."""
    number, flags = _HEADER.unpack_from(query)[:2]
    return DnsReply(
        dns.rcode.to_text(rcode), _HEADER.pack(number, _REPLY | (flags & _COPIED_FLAGS) | rcode, 0, 0, 0, 0)
    )
