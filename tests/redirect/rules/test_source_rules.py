"""Which routing rules get a copy for the private link. The kernel's own are in test_source_routing.py."""

import struct
from ipaddress import ip_address

import pytest

from exclave.redirect.rules.source_rules import RoutingRule, RulesChange, parse_rule, plan_rules

OWN4, OWN6, OTHER4 = "10.1.0.5", "fd00:1::5", "10.2.0.5"
PRIVATE4, PRIVATE6 = "169.254.77.0", "fd77:ec1a:7e::"
SOURCE, PRIORITY, TABLE, PROTOCOL = 2, 6, 15, 21
INVERT, UNRESOLVED = 2, 4
OURS = bytes([77])


def rule(
    source: str = "", length: int = 0, *, table: int = 100, flags: int = 0, protocol: bytes = b"\3"
) -> RoutingRule:
    """A rule as the kernel lists it."""
    packed = ip_address(source).packed if source else b""
    family = 10 if ":" in source else 2
    header = struct.pack("=BBBBBBBBI", family, 0, length or 8 * len(packed), 0, table, 0, 0, 1, flags)
    attributes = {TABLE: table.to_bytes(4, "little"), PROTOCOL: protocol, **({SOURCE: packed} if packed else {})}
    body = header + b"".join(
        struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)
        for kind, content in attributes.items()
    )
    found = parse_rule(body)
    assert found is not None
    assert parse_rule(found.body()) == found
    return found


COPY4, COPY6 = rule(PRIVATE4, 29, protocol=OURS), rule(PRIVATE6, 64, protocol=OURS)

NEEDED: dict[str, tuple[list[RoutingRule], list[RoutingRule]]] = {
    "no rule": ([], []),
    "a rule for any source": ([rule()], []),
    "a rule for the address": ([rule(OWN4)], [COPY4]),
    "a rule for the address, in IPv6": ([rule(OWN6)], [COPY6]),
    "a rule for its network": ([rule("10.1.0.0", 16)], [COPY4]),
    "two rules": ([rule(OWN4), rule(OWN4, table=101)], [COPY4, rule(PRIVATE4, 29, table=101, protocol=OURS)]),
    "two rules whose copies are the same": ([rule(OWN4), rule("10.1.0.0", 16)], [COPY4]),
    "a rule whose interface is away": ([rule(OWN4, flags=UNRESOLVED)], [COPY4]),
    "a rule for another address": ([rule(OTHER4)], []),
    "a rule for all but the address": ([rule(OWN4, flags=INVERT)], []),
    "a rule for a copy's own source that others made": ([rule(PRIVATE4, 29)], []),
}


@pytest.mark.parametrize(("rules", "copies"), NEEDED.values(), ids=NEEDED)
def test_copies(rules: list[RoutingRule], copies: list[RoutingRule]) -> None:
    assert plan_rules(rules, (OWN4, OWN6)) == RulesChange(tuple(copies))
    assert plan_rules([*rules, *copies], (OWN4, OWN6)) == RulesChange()
    assert plan_rules([*rules, *copies], ()) == RulesChange((), tuple(copies))


def test_a_copy_whose_rule_is_gone_is_deleted() -> None:
    assert plan_rules([COPY4, COPY6, rule(OWN6)], (OWN4, OWN6)) == RulesChange((), (COPY4,))


def test_the_first_address_that_has_rules_decides() -> None:
    rules = [rule(OTHER4, table=7), rule(OWN4)]
    assert plan_rules(rules, ("10.9.0.5", OWN4, OTHER4)) == RulesChange((COPY4,))


def test_a_rule_of_another_family_is_skipped_and_one_that_is_cut_off_refused() -> None:
    assert parse_rule(bytes([28, *bytes(11)])) is None
    with pytest.raises(ValueError, match="cut off"):
        parse_rule(bytes(11))
