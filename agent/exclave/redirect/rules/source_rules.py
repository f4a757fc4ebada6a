"""Which routing rules replies from the private link need, so that they leave as from the member's address. Pure.

A connection from outside is translated to the private link's address, and the kernel routes its replies before it
translates them back. So a rule such as `from 10.1.0.5 lookup 101`, as cloud-init, netplan and NetworkManager write it,
does not match them, nor where the kernel checks by which interface a caller may come (rp_filter).
So each such rule has a copy whose source is the private link's network. Source: linux/fib_rules.h.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from exclave.kit.netlink.messages import DUMP, REQUEST, read_attributes, write_attribute, write_raw
from exclave.link.layout import NETWORK4, NETWORK6, Family

PROTOCOL = 77  # of our rules; in no list of iproute2's rt_protos

NEW_RULE, DELETED_RULE, _GET_RULE = 32, 33, 34  # RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE
GROUPS = (8, 19)  # RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE

FAMILY_NUMBERS: dict[Family, int] = {4: 2, 6: 10}  # AF_INET, AF_INET6

_HEADER = struct.Struct("=BBBBBBBBI")  # fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
_SOURCE, _PROTOCOL = 2, 21  # FRA_SRC, FRA_PROTOCOL
_INVERT = 2  # FIB_RULE_INVERT


@dataclass(frozen=True)
class RoutingRule:
    """A rule of this machine: its header without state, and its attributes, as the kernel lists them."""

    family: Family
    header: tuple[int, ...]
    attributes: frozenset[tuple[int, bytes]]

    @property
    def source(self) -> IPv4Network | IPv6Network | None:
        """The network that the rule is for; None for any source."""
        packed = dict(self.attributes).get(_SOURCE)
        return None if packed is None else ip_network((ip_address(packed), self.header[2]), strict=False)

    @property
    def is_ours(self) -> bool:
        """True if we made it."""
        is_private = self.source in (NETWORK4, NETWORK6)
        return is_private and dict(self.attributes).get(_PROTOCOL) == bytes([PROTOCOL])

    def copy(self) -> "RoutingRule":
        """The same rule for the private link's network."""
        network = NETWORK4 if self.family == 4 else NETWORK6
        header = (*self.header[:2], network.prefixlen, *self.header[3:])
        attributes = dict(self.attributes)
        attributes[_SOURCE] = network.network_address.packed
        attributes[_PROTOCOL] = bytes([PROTOCOL])
        return RoutingRule(self.family, header, frozenset(attributes.items()))

    def body(self) -> bytes:
        """The body of a message that adds or deletes it."""
        return _HEADER.pack(*self.header) + b"".join(write_attribute(*each) for each in sorted(self.attributes))


def make_listing(family: Family) -> bytes:
    """The message that requests all rules of a family."""
    return write_raw(_GET_RULE, REQUEST | DUMP, _HEADER.pack(FAMILY_NUMBERS[family], *bytes(8)))


def parse_rule(body: bytes) -> RoutingRule | None:
    """The rule in a message's body; None for one of another family. Raises ValueError if it is cut off."""
    if len(body) < _HEADER.size:
        raise ValueError("a routing rule is cut off")
    *header, flags = _HEADER.unpack_from(body)
    family = next((family for family, number in FAMILY_NUMBERS.items() if number == header[0]), None)
    if family is None:
        return None
    attributes = frozenset(read_attributes(body[_HEADER.size :]))
    return RoutingRule(family, (*header, flags & _INVERT), attributes)


@dataclass(frozen=True)
class RulesChange:
    """Rules of ours to add and to delete."""

    add: tuple[RoutingRule, ...] = ()
    delete: tuple[RoutingRule, ...] = ()


def plan_rules(rules: Collection[RoutingRule], addresses: Collection[str]) -> RulesChange:
    """What to change, so that each rule for one of the addresses has a copy. No addresses: all copies are deleted.

    The first address that has rules decides: replies of all addresses have the same private source.
    """
    ours = [rule for rule in rules if rule.is_ours]
    wanted: list[RoutingRule] = []
    for family in FAMILY_NUMBERS:
        by_address = (
            [rule.copy() for rule in rules if rule.family == family and _is_for(rule, address)] for address in addresses
        )
        wanted += dict.fromkeys(next(filter(None, by_address), []))
    add = tuple(rule for rule in wanted if rule not in ours)
    return RulesChange(add, tuple(rule for rule in ours if rule not in wanted))


def _is_for(rule: RoutingRule, address: str) -> bool:
    source = rule.source
    # `not from` would match the private link's network as well: it needs no copy, and has none.
    return source is not None and not rule.is_ours and not rule.header[-1] & _INVERT and ip_address(address) in source
