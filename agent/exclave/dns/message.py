"""Queries in, replies out, as bytes: what DNS asks of a server whatever its zones hold. Pure.

Rules: whatever the bytes are, `respond` returns a reply or None and raises nothing.
* Dropped: fewer than the twelve bytes of a header, and replies (answering those would make two servers talk for ever).
* FORMERR: what cannot be read, not exactly one question. NOTIMP: other operations than QUERY. BADVERS: EDNS above 0.
* Over UDP a reply has at most 512 bytes, or what EDNS announces, up to 1,232 (no fragments on any path: DNS flag day
  2020); what is longer is sent without records and marked as truncated, and the asker comes back over TCP.
Sources: RFC 1035 section 4, RFC 6891 (EDNS), RFC 7766 (TCP).
"""

import struct
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass

from exclave.dns.zone import HeadlessService, ZoneAnswer, answer_from_zone

MIN_PAYLOAD = 512
OUR_PAYLOAD = 1232
MAX_MESSAGE = 65535

_HEADER = struct.Struct("!HHHHHH")
_REPLY = dns.flags.QR
_OPERATION = 0x7800
_COPIED_FLAGS = _OPERATION | dns.flags.RD


class DnsReply(NamedTuple):
    """What to send, and its response code by name, such as NOERROR."""

    code: str
    wire: bytes


def respond(services: tuple[HeadlessService, ...] | None, query: bytes, *, over_udp: bool) -> DnsReply | None:
    """The reply to one message; None: drop it. `services` None: nothing is known yet."""
    if len(query) < _HEADER.size:
        return None
    flags = _HEADER.unpack_from(query)[1]
    if flags & _REPLY:
        return None
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
    most = MAX_MESSAGE
    if over_udp:
        announced = asked.payload if asked.edns >= 0 else MIN_PAYLOAD
        most = max(MIN_PAYLOAD, min(announced, OUR_PAYLOAD))
    # Additional records are a courtesy: they go before the answer does.
    for sections in ((found.answer, found.authority, found.additional), (found.answer, found.authority, ())):
        reply = _reply(asked, found)
        for section, records in zip((reply.answer, reply.authority, reply.additional), sections, strict=True):
            section.extend(records)
        try:
            return reply.to_wire(max_size=most)
        except dns.exception.TooBig:
            continue
    reply = _reply(asked, found)
    reply.flags |= dns.flags.TC
    return reply.to_wire(max_size=most)


def _reply(asked: dns.message.Message, found: ZoneAnswer) -> dns.message.Message:
    reply = dns.message.make_response(asked, our_payload=OUR_PAYLOAD)
    if found.ours:
        reply.flags |= dns.flags.AA
    reply.set_rcode(found.rcode)
    return reply


def _bare(query: bytes, rcode: dns.rcode.Rcode) -> DnsReply:
    """A reply of a header only, for what was not read any further."""
    number, flags = _HEADER.unpack_from(query)[:2]
    return DnsReply(
        dns.rcode.to_text(rcode), _HEADER.pack(number, _REPLY | (flags & _COPIED_FLAGS) | rcode, 0, 0, 0, 0)
    )
