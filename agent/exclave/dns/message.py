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

from exclave.dns.zone import Found, Service, look_up

LEAST_PAYLOAD = 512
OUR_PAYLOAD = 1232
MOST = 65535

_HEADER = struct.Struct("!HHHHHH")
_REPLY = dns.flags.QR
_OPERATION = 0x7800
_KEPT = _OPERATION | dns.flags.RD


class Reply(NamedTuple):
    """What to send, and its response code by name, such as NOERROR."""

    code: str
    wire: bytes


def respond(services: tuple[Service, ...] | None, query: bytes, *, over_udp: bool) -> Reply | None:
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
    found = _found(services, asked)
    return Reply(dns.rcode.to_text(found.rcode), _encoded(asked, found, over_udp=over_udp))


def _found(services: tuple[Service, ...] | None, asked: dns.message.Message) -> Found:
    (question,) = asked.question
    if asked.edns > 0:
        return Found(dns.rcode.BADVERS)
    if question.rdclass != dns.rdataclass.IN:
        return Found(dns.rcode.REFUSED)
    return look_up(services, question.name, question.rdtype)


def _encoded(asked: dns.message.Message, found: Found, *, over_udp: bool) -> bytes:
    most = MOST
    if over_udp:
        announced = asked.payload if asked.edns >= 0 else LEAST_PAYLOAD
        most = max(LEAST_PAYLOAD, min(announced, OUR_PAYLOAD))
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


def _reply(asked: dns.message.Message, found: Found) -> dns.message.Message:
    reply = dns.message.make_response(asked, our_payload=OUR_PAYLOAD)
    if found.ours:
        reply.flags |= dns.flags.AA
    reply.set_rcode(found.rcode)
    return reply


def _bare(query: bytes, rcode: dns.rcode.Rcode) -> Reply:
    """A reply of a header only, for what was not read any further."""
    number, flags = _HEADER.unpack_from(query)[:2]
    return Reply(dns.rcode.to_text(rcode), _HEADER.pack(number, _REPLY | (flags & _KEPT) | rcode, 0, 0, 0, 0))
