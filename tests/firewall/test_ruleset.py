"""Tables of others as nft lists them."""

import json
from typing import Any

import pytest

from exclave.firewall.iptables import SavedRule
from exclave.firewall.ruleset import parse_foreign_tables, parse_table, with_saved

CHAIN = {
    "family": "ip",
    "table": "filter",
    "name": "INPUT",
    "type": "filter",
    "hook": "input",
    "prio": 0,
    "policy": "drop",
}
XT = {"xt": {"type": "match", "name": "conntrack"}}


def listing(*items: dict[str, Any]) -> bytes:
    return json.dumps({"nftables": [{"metainfo": {}}, *items]}).encode()


def rule(handle: int, *statements: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "handle": handle, "expr": list(statements)}}


TABLE = listing(
    {"table": {"family": "ip", "name": "filter", "handle": 1}},
    {"chain": CHAIN},
    {"chain": {"family": "ip", "table": "filter", "name": "mesh", "handle": 2}},
    {"set": {"family": "ip", "table": "filter", "name": "ports", "type": "inet_service", "elem": [22, 80]}},
    rule(3, XT, {"accept": None}),
    rule(4, {"drop": None}),
)


def test_a_table_is_its_chains_rules_and_sets() -> None:
    table = parse_table(TABLE)
    chain = table.chains["INPUT"]
    assert (chain.hook, chain.priority, chain.policy, table.chains["mesh"].hook) == ("input", 0, "drop", "")
    assert [(each.handle, len(each.statements)) for each in chain.rules] == [(3, 2), (4, 1)]
    assert (table.sets, table.has_iptables_rules, table.has_flags) == ({"ports": (22, 80)}, True, False)


def test_only_what_nft_does_not_print_is_taken_from_iptables() -> None:
    lines = (
        SavedRule("-A INPUT -m conntrack …", ({"accept": None},)),
        SavedRule("-A INPUT -j DROP", ({"return": None},)),
    )
    table = with_saved(parse_table(TABLE), {"INPUT": lines})
    first, second = table.chains["INPUT"].rules
    assert (first.statements, first.saved) == (({"accept": None},), "-A INPUT -m conntrack …")
    assert (second.statements, second.saved) == (({"drop": None},), "-A INPUT -j DROP")


def test_a_chain_with_another_number_of_rules_stays_as_nft_prints_it() -> None:
    table = parse_table(TABLE)
    assert with_saved(table, {"INPUT": (SavedRule("-A INPUT", ()),)}) == table


def test_tables_of_others_at_the_hooks_are_found_once() -> None:
    others = [
        CHAIN,
        {**CHAIN, "name": "OUTPUT", "hook": "output"},
        {**CHAIN, "table": "forward", "hook": "forward"},
        {**CHAIN, "family": "inet", "table": "exclave"},
        {**CHAIN, "family": "bridge", "table": "b"},
        {**CHAIN, "table": "sets", "hook": None},
    ]
    assert parse_foreign_tables(listing(*({"chain": each} for each in others))) == (("ip", "filter"),)


@pytest.mark.parametrize("items", [[], [{"table": 7}], [{"table": {"family": "ip"}}], [{"table": {}}, {"rule": {}}]])
def test_another_form_is_refused(items: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="its JSON was expected"):
        parse_table(listing(*items))
